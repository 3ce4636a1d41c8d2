"""Mutated files of every kind that the package reads: each is read, or refused in one sentence."""
