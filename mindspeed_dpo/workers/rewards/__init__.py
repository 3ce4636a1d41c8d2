"""What can score rollouts: models, functions of the user, a judge. The functions' process starts here: no torch.

The interface is left to `workers.scorer`, selecting pairs by score to `algorithms`.
"""
