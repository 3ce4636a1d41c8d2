"""Micro-batches of a role's share of a step, built from row numbers or from rollouts."""
