"""The mathematics of preference training: losses, objectives, pair selection, schedules, metrics.

Pure functions of tensors and numbers. Models, processes, optimizers and files are left to other packages; the engine
receives a loss as a callable.
"""
