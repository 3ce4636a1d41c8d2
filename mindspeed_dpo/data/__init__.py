"""Data: converts raw preference and prompt files to token files, and reads token files as batches.

Preprocessing: readers -> handlers -> encoders -> token files. Training: token files -> datasets -> samplers -> batches.
Independent of models, devices and losses.
"""
