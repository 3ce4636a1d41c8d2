"""From raw preference and prompt files to token files, and from token files to batches.

Preprocessing: readers -> handlers -> encoders -> token sets. Training: token sets -> datasets -> samplers.
Nothing here knows of models, devices or losses.
"""
