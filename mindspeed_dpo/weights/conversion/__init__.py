"""Conversion between formats of weights, as `convert_ckpt.py` does it.

Each format is left to its package: `hf`, `legacy`, `lora`.
"""
