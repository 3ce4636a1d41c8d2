"""Batching: assigns pairs to replicas and micro-batches, and packs them into rows.

Which pairs belong to a step is left to `datasets`, moving rows to a device to `workers`.
"""
