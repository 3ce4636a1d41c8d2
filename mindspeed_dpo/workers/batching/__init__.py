"""Micro-batches of a role's share of a step, built from row numbers or from rollouts.

The rules of planning and packing are left to `data.batching`, computing with the micro-batches to the roles.
"""
