"""The resuming of a run: its checkpoint, what it takes from it, and what it reports about it."""
