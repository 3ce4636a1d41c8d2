"""What can score rollouts: models, functions of the user, a judge. The child process of functions imports this: no torch."""
