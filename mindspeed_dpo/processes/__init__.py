"""Lifetime of the processes of a run: who watches whom, and that none outlives the command.

`supervisor` runs in the command that the user starts, `driver_link` in its child, the driver. Neither imports torch or
Ray.
"""
