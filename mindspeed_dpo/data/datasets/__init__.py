"""Datasets over token files: filtering, truncation, splits, sampling, and the cache of reference log-probabilities."""
