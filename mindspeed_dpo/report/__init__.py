"""The report of a run: `report.html`, one page without external references, made from the files of the run's folder.

It is written by a process of its own that imports neither torch nor Ray; training only starts that process.
"""
