"""What a run tells about itself: metric sums, their names and units, log files, trackers, the progress line.

Knows nothing of models, processes or losses. Combining ranks is left to the caller: it gets one vector to all-reduce.
"""
