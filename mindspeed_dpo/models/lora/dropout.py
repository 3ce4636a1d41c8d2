"""The random numbers of adapter dropout."""

from __future__ import annotations

import numpy as np
import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from torch import Tensor


class DropoutStream:
    """Random numbers whose state is in megatron-core's RNG tracker, so recomputation and checkpoints include it."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def draw(self, like: Tensor, split: bool) -> Tensor:
        """Draw uniform unitless numbers in [0, 1), float32, in the shape of a tensor.

        Args:
            like: A tensor of any shape, dtype and unit, whose shape and device the numbers get.
            split: Whether tensor-parallel ranks need different numbers; otherwise they get the same.
        """
        # The names are part of the checkpoint format.
        name = f"adapters-{'split' if split else 'whole'}"
        tracker, generator = get_cuda_rng_tracker(), torch.Generator(device=like.device)
        states = tracker.get_states()
        if name in states:
            generator.set_state(states[name])
        else:
            ranks = (
                parallel_state.get_pipeline_model_parallel_rank(),
                # Data- and context-parallel ranks process different rows.
                parallel_state.get_data_parallel_rank(with_context_parallel=True),
                1 + parallel_state.get_tensor_model_parallel_rank() if split else 0,
            )
            generator.manual_seed(derive_seed(self._seed, *ranks))
        numbers = torch.rand(like.shape, generator=generator, device=like.device)
        tracker.set_states({**states, name: generator.get_state()})
        return numbers


def derive_seed(*parts: int) -> int:
    """A 32-bit seed derived from several integers; different sequences rarely give the same seed."""
    return int(np.random.SeedSequence(list(parts)).generate_state(1, np.uint32)[0])
