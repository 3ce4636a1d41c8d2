"""Keys whose effect is where things lie: seen in the plan that a run prints."""

from __future__ import annotations

from tests.config_effects.comparison import Turn

TWO = {"resource_pool": 2}

OFFLINE_PLAN: dict[str, Turn] = {
    "tensor_model_parallel_size": Turn(2, beside=TWO),
    "pipeline_model_parallel_size": Turn(2, beside=TWO),
    "num_layers_per_virtual_pipeline_stage": Turn(
        1, beside={**TWO, "pipeline_model_parallel_size": 2, "num_layers": 4}
    ),
    "context_parallel_size": Turn(2, beside=TWO),
    "sequence_parallel": Turn(True, beside={**TWO, "tensor_model_parallel_size": 2, "sequence_parallel": False}),
    "use_distributed_optimizer": Turn(True, beside=TWO),
    "optimizer_offload": Turn(True),
    "micro_batch_size": Turn(1),
    "micro_batch_tokens": Turn(64, beside={"micro_batch_size": None}),
    "make_vocab_size_divisible_by": Turn(512),
    "padded_vocab_size": Turn(1024),
    "reference": Turn("live"),
}
