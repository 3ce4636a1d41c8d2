"""The assignment of the rows of a packed row to sequences, for losses of routers that are formed for each sequence.

Letters: t rows of this rank, S sequences of a micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import parallel_state
from torch import Tensor

from mindspeed_dpo.batches import PackedBatch


@dataclass(frozen=True)
class SequenceRows:
    """The assignment of the rows of a packed row to sequences.

    Attributes:
        membership: [S, t] float32, 1 where a row of this rank belongs to a sequence: those of a shared prompt belong to
            all its responses, those of padding to none.
        lengths: [S] float32 tokens of each sequence over all ranks; 0 for a response that does not exist.
        weights: [S] float32 share of a sequence in the loss of its pair; 0 for padding and for no response.
        num_responses: Sequences of a pair, which follow each other.
        group: The ranks that share the rows; None for a single one.
    """

    membership: Tensor
    lengths: Tensor
    weights: Tensor
    num_responses: int
    group: Any = None

    @classmethod
    def of(cls, batch: PackedBatch, config: Any) -> SequenceRows:
        """Compute them for the rows of this context- and tensor-parallel rank; call after `process_groups.split`.

        Args:
            batch: The micro-batch, on its device.
            config: megatron-core's config of the model.
        """
        device, num_sequences = batch.weights.device, batch.response_lengths.numel()
        belongs = torch.zeros(num_sequences, len(batch.query_lengths))
        for segment, responses in enumerate(batch.segment_responses):
            belongs[responses.start : responses.stop, segment] = 1
        counts = torch.tensor(batch.query_lengths)
        lengths = belongs @ counts.float()
        membership = belongs.to(device).repeat_interleave(counts.to(device), dim=1, output_size=len(batch.tokens))
        if batch.part is not None:
            membership = membership[:, batch.part.start : batch.part.stop]
        tp, cp = config.tensor_model_parallel_size, config.context_parallel_size
        if tp > 1:
            membership = membership.chunk(tp, dim=1)[parallel_state.get_tensor_model_parallel_rank()]
        num_responses = batch.response_lengths.shape[1]
        present = (batch.response_lengths > 0).to(batch.weights.dtype)
        weights = (batch.weights[:, None] * present / present.sum(1, keepdim=True)).flatten()
        group = parallel_state.get_tensor_and_context_parallel_group() if tp * cp > 1 else None
        return cls(membership.contiguous(), lengths.to(device), weights, num_responses, group)

    @property
    def divisors(self) -> Tensor:
        """The lengths [S] float32, 1 for a sequence without tokens, whose sums are 0."""
        return self.lengths.clamp(min=1)
