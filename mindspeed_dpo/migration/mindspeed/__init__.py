"""Conversion of the training scripts of MindSpeed-LLM and the YAML files of MindSpeed-RL."""
