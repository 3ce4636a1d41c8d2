"""Builds models, datasets and objectives of a role in its process.

Activating the device is left to `device`, reading and placing weights to `weights` and `engine`.
"""
