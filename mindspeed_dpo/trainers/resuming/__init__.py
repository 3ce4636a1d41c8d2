"""Where a run resumes, what it takes from a checkpoint, and what it reports about it.

Reading and verifying the files of a checkpoint is left to `engine.checkpoints`.
"""
