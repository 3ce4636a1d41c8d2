"""Answers to prompts: a lean forward pass over Megatron's weights, a KV cache, sampling, continuous batching."""
