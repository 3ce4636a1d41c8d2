"""Indexed datasets: the format of token files, memory-mapped columns of rows that are written once."""
