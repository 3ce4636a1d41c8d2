"""Hugging Face folders, read and written: configuration, tensors and other files.

The names of a model's tensors are those of `weights.families`.
"""
