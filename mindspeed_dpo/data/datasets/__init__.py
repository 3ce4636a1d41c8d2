"""Rows for training and evaluation: filtering, truncation, splits, sampling, cached reference log-probabilities."""
