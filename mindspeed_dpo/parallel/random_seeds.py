"""Seeds of the random generators of each rank."""

from __future__ import annotations

import torch
from megatron.core import parallel_state, tensor_parallel


def seed_generators(number: int) -> None:
    """Seed this process's random generators; call after `process_groups.split`.

    Pipeline stages get different seeds. The ranks of a stage share theirs, except in megatron-core's tensor-parallel
    regions, where each tensor rank has its own.
    """
    stage_seed = number + 100 * parallel_state.get_pipeline_model_parallel_rank()
    torch.manual_seed(stage_seed)
    tensor_parallel.model_parallel_cuda_manual_seed(stage_seed, force_reset_rng=True)
