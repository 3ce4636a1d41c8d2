"""Builds models, datasets and objectives of a role in its process."""
