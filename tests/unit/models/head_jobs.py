"""What the tests of the head compute, in one process or in several."""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor

from mindspeed_dpo.batches.logprob_columns import LOGP
from mindspeed_dpo.models import chunked_logprob_head
from mindspeed_dpo.models.chunked_logprob_head import LogProbHead
from mindspeed_dpo.models.vocab_shard import VocabShard


@dataclass(frozen=True)
class Case:
    """Rows [R, h], the padded weight [V', h], labels [R], the upstream gradient [R], and the true V."""

    hidden: Tensor
    weight: Tensor
    labels: Tensor
    upstream: Tensor
    vocab_size: int


@dataclass(frozen=True)
class Scored:
    """The head's columns and the gradients of its inputs."""

    columns: Tensor
    hidden_grad: Tensor
    weight_grad: Tensor


def score(
    inputs: Case, shard: VocabShard, weight: Tensor, statistics: bool, column: int = LOGP, *, fused: bool = False
) -> Scored:
    """Score and differentiate with the weight of a shard; the upstream gradient enters at a column."""
    hidden, weight = inputs.hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    # A weight is passed, as with tied embeddings, so the module itself is not needed.
    columns = LogProbHead.forward(None, hidden, inputs.labels, shard, weight, statistics, fused)  # type: ignore[arg-type]
    columns[:, column].backward(inputs.upstream)
    assert hidden.grad is not None and weight.grad is not None
    return Scored(columns.detach(), hidden.grad, weight.grad)


def score_shard(inputs: Case, chunk_elements: int) -> Scored:
    """This process's share of the vocabulary."""
    before, chunked_logprob_head.CHUNK_ELEMENTS = chunked_logprob_head.CHUNK_ELEMENTS, chunk_elements
    size = len(inputs.weight) // dist.get_world_size()
    start = size * dist.get_rank()
    shard = VocabShard(start, size, inputs.vocab_size, dist.group.WORLD)
    try:
        return score(inputs, shard, inputs.weight[start : start + size], statistics=True)
    finally:
        chunked_logprob_head.CHUNK_ELEMENTS = before
