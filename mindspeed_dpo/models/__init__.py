"""The model: architecture to megatron-core, attention over segments, the log-probability head, weights in and out."""
