"""Determines where a run resumes and what it takes from a checkpoint, and reports it.

Reading and verifying the files of a checkpoint is left to `engine.checkpoints`.
"""
