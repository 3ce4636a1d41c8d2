"""Generation: a forward pass over Megatron's weights, a KV cache, sampling and continuous batching.

Loading and synchronising weights is left to `workers`, selecting pairs from the responses to `algorithms`.
"""
