"""Batching: assigns pairs to replicas and micro-batches, and packs them into rows."""
