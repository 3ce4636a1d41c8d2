"""Checkpoints of a training run: their contents, how they are written, verified, read and deleted.

When a checkpoint is saved, and which ones are retained, is decided by `trainers`.
"""
