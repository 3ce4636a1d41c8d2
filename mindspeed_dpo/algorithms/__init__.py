"""The mathematics of training on preferences: losses, their objective, learning-rate schedules.

Pure functions of tensors and numbers. Models, processes, optimizers and files are left to others; a loss reaches the
engine as a callable.
"""
