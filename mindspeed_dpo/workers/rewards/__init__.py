"""The sources of scores: models, functions of the user, a judge. The functions' process starts here: no torch."""
