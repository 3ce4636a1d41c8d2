"""Keys of layout and memory, whose effect is observed in the plan that a run prints."""

from __future__ import annotations

from tests.config_effects.comparison import KeyChange

TWO = {"resource_pool": 2}

OFFLINE_PLAN: dict[str, KeyChange] = {
    "tensor_model_parallel_size": KeyChange(2, context=TWO),
    "pipeline_model_parallel_size": KeyChange(2, context=TWO),
    "num_layers_per_virtual_pipeline_stage": KeyChange(
        1, context={**TWO, "pipeline_model_parallel_size": 2, "num_layers": 4}
    ),
    "context_parallel_size": KeyChange(2, context=TWO),
    "sequence_parallel": KeyChange(True, context={**TWO, "tensor_model_parallel_size": 2, "sequence_parallel": False}),
    "use_distributed_optimizer": KeyChange(True, context=TWO),
    "optimizer_offload": KeyChange(True),
    "micro_batch_size": KeyChange(1),
    "micro_batch_tokens": KeyChange(64, context={"micro_batch_size": None}),
    "make_vocab_size_divisible_by": KeyChange(512),
    "padded_vocab_size": KeyChange(1024),
    "reference": KeyChange("live"),
}
