"""Conversion of configurations of TRL, ROLL and align-anything, whose keys are those of transformers' Trainer."""
