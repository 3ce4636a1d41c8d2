"""Conversion between formats of weights, as `convert_ckpt.py` does it."""
