"""What can score rollouts: models, functions of the user, a judge. The functions' process starts here: no torch."""
