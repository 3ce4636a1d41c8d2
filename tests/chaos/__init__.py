"""Kills random processes of runs at random moments, resumes them, and compares the results with uninterrupted runs."""
