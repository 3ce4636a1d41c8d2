"""Configuration of a run: typed settings, the origin of each value, and a list of all problems at once.

`load.load_run` turns the name of a configuration into a `RunConfig`, whose frozen dataclasses all other packages read.
This package parses YAML and validates; it does not import torch and does not touch devices or processes.
"""
