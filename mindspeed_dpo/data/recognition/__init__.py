"""Recognition of the form of raw rows: the handler and the columns that read them, and a sample to look at.

The forms are those of published sets. Whether one fits is decided by the handlers themselves, which read sampled rows.
"""
