"""The criteria that a training step minimises: from the outputs of a model's head to losses and metrics."""
