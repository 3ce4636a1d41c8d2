"""Parallel layout and communication: rank arithmetic, process groups, collectives of context and tensor parallelism.

The computation between collectives is left to `models`, `engine` and `rollout`, starting processes to `controller`.
"""
