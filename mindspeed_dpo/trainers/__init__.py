"""Trainers: the order of a run's steps, and how its roles, data and trackers are built from the configuration.

`offline_dpo` and `online_dpo` define a step, `loop` repeats it, `build` creates what it needs. Where roles run is left
to `controller`, what they compute to `workers`.
"""
