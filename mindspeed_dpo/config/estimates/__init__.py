"""Estimates from the settings alone: memory per device, workload of a step, and the summary of a run.

Nothing is measured here, and no setting is judged; that is left to `validation`.
"""
