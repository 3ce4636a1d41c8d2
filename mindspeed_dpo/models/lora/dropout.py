"""Random numbers of the adapters' dropout."""

from __future__ import annotations

import numpy as np
import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from torch import Tensor


class DropoutStream:
    """Random numbers whose state lies with megatron-core's own: recomputation repeats them, checkpoints carry them."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def draw(self, like: Tensor, split: bool) -> Tensor:
        """Uniform numbers in the shape of a tensor, float32.

        Args:
            like: Says shape and device.
            split: Whether tensor ranks need different numbers; otherwise they get the same.
        """
        name = f"adapters-{'split' if split else 'whole'}"
        tracker, generator = get_cuda_rng_tracker(), torch.Generator(device=like.device)
        states = tracker.get_states()
        if name in states:
            generator.set_state(states[name])
        else:
            ranks = (
                parallel_state.get_pipeline_model_parallel_rank(),
                # Replicas and context-parallel ranks have other rows.
                parallel_state.get_data_parallel_rank(with_context_parallel=True),
                1 + parallel_state.get_tensor_model_parallel_rank() if split else 0,
            )
            generator.manual_seed(number_of(self._seed, *ranks))
        numbers = torch.rand(like.shape, generator=generator, device=like.device)
        tracker.set_states({**states, name: generator.get_state()})
        return numbers


def number_of(*parts: int) -> int:
    """One number from several, such that no two sequences are likely to share theirs."""
    return int(np.random.SeedSequence(list(parts)).generate_state(1, np.uint32)[0])
