"""Criteria that a training step minimises: they turn the outputs of a model's head into losses and metrics.

The formulas are left to `algorithms`, forward and backward passes to `engine`.
"""
