"""Datasets over token files: filtering, truncation, splits, sampling, and the cache of reference log-probabilities.

The format of the files is left to `indexed`, packing to `batching`, computing log-probabilities to `workers`.
"""
