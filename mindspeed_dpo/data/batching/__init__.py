"""From rows to packed micro-batches: who computes what, and the layout of a packed row."""
