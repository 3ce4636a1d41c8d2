"""Indexed datasets: the format of token files, memory-mapped columns of rows that are written once.

What the columns mean in training is left to `datasets`, producing the tokens to `preprocessing`.
"""
