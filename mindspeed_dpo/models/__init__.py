"""Models on megatron-core: decoder stages, attention over segments, the log-probability and score heads, LoRA.

Reading weights and the names of tensors are left to `weights`, schedules and optimizers to `engine`, generation to
`rollout`.
"""
