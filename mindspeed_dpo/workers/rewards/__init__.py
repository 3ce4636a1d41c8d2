"""Scorers of rollouts: reward models, functions of the user, a judge.

The process of the functions starts here, so nothing at the top imports torch.

The interface is left to `workers.scorer`, selecting pairs by score to `algorithms`.
"""
