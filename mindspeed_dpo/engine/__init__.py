"""Trains or scores one model: pipeline schedule, gradients, optimizer, checkpoints.

The loss arrives as a callable; what it computes is left to `algorithms`, which role uses the engine to `workers`.
"""
