"""What a training step minimises: from the outputs of a model's head to losses and metrics.

The formulas are left to `algorithms`, forward and backward passes to `engine`.
"""
