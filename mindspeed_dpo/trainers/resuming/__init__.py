"""Where a run resumes, what it takes from a checkpoint, and what it reports about it."""
