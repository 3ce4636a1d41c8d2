"""Observability: metric sums, names and units of metrics, log files, trackers and the progress line.

Independent of models, processes and losses. Callers reduce metrics over ranks, with one all-reduce of a vector.
"""
