"""Estimates from the settings alone: memory per device, workload of a step, and the summary of a run."""
