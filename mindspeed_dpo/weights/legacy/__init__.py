"""Rank files of Megatron-LM and MindSpeed-LLM (`mp_rank_XX_YYY`), read and written.

Covers their arguments, folders, names of tensors and forms of experts.
"""
