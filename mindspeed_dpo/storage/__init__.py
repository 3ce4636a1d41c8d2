"""Files on disk: digests of what is written, locks that end with their process, and sentences for failed writes.

Imports neither torch nor another package of this project.
"""
