"""Forward and backward passes over the micro-batches of a step, using megatron-core's pipeline schedules.

One stage uses the schedule without pipelining, several stages 1F1B, virtual stages interleaved 1F1B. All stages build
the same micro-batches and therefore know the shape of every message.

An interleaved schedule needs at least as many micro-batches as stages. Missing ones are padded by repeating the
shortest micro-batch; its output and gradient are discarded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.pipeline_parallel.schedules import forward_backward_pipelining_with_interleaving
from megatron.core.utils import get_model_config
from torch import Tensor

from mindspeed_dpo.batches import PackedBatch
from mindspeed_dpo.engine.p2p_communication import p2p_options

LossSum = Callable[[PackedBatch, Tensor], Tensor]
"""Maps a micro-batch and the model's output for it to the sum of its pair losses, a scalar with gradient."""


def forward_backward(
    chunks: Sequence[Any], batches: Sequence[PackedBatch], loss_sum: LossSum, *, replicas: int, num_pairs: int
) -> None:
    """Accumulate the gradient of the mean loss over the pairs of a step.

    Args:
        chunks: The wrapped virtual stages of this rank, or its only stage.
        batches: Micro-batches on this rank's device; at least one.
        loss_sum: Loss of a micro-batch, called on the last stage only: a float32 or float64 scalar.
        replicas: Data-parallel size.
        num_pairs: Number of pairs of the step over all replicas.
    """
    num_padding = num_padding_micro_batches(len(batches), len(chunks))
    scale = loss_scale(len(batches) + num_padding, replicas, num_pairs)

    def step(iterator: Iterator[tuple[PackedBatch, bool]], stage: Any) -> tuple[Tensor, Any]:
        batch, counts = next(iterator)
        return stage(batch), partial(_scaled, loss_sum, batch, scale) if counts else _zero_loss

    _run(chunks, batches, num_padding, step, forward_only=False)


def forward(chunks: Sequence[Any], batches: Sequence[PackedBatch]) -> list[Tensor]:
    """Compute the model's output without gradient, float32: [R, 1 or 5] of R response tokens, or scores [P, K].

    Returns:
        One tensor of values per micro-batch on the last stage, an empty list on the others.
    """

    def step(iterator: Iterator[tuple[PackedBatch, bool]], stage: Any) -> tuple[Tensor, Any]:
        return stage(next(iterator)[0]), lambda output, non_loss_data=True: output

    num_padding = num_padding_micro_batches(len(batches), len(chunks))
    with torch.no_grad():
        outputs = _run(chunks, batches, num_padding, step, forward_only=True, collect_non_loss_data=True)
    return outputs[: len(batches)]


def loss_scale(num_micro_batches: int, data_parallel_size: int, num_pairs: int) -> float:
    """Compute the factor that turns a micro-batch's loss sum into its share of the mean over the pairs of the step.

    The schedule divides by the number of micro-batches of this rank and the data-parallel wrapper by the number of
    ranks. Undoing both and dividing by the pairs of the step makes the gradient independent of every split.
    Context-parallel ranks cancel out: the schedule multiplies by them, the wrapper divides by them, and each rank adds
    the gradient of its own tokens.
    """
    return num_micro_batches * data_parallel_size / num_pairs


def num_padding_micro_batches(num_micro_batches: int, chunks: int) -> int:
    """Compute how many micro-batches an interleaved schedule lacks; 0 without virtual stages."""
    stages = parallel_state.get_pipeline_model_parallel_world_size()
    return max(0, stages - num_micro_batches) if chunks > 1 else 0


def group_size(num_micro_batches: int, stages: int) -> int:
    """Choose how many micro-batches an interleaved schedule runs through a virtual stage before it goes to the next.

    The smallest group, to hold few activations, whose remainder is 0 or at least the number of stages; with a shorter
    remainder the output of the last stage would not arrive in time.

    Args:
        num_micro_batches: Number of micro-batches of the step, at least `stages`.
        stages: Pipeline-parallel size.
    """
    sizes = range(stages, num_micro_batches + 1)
    return next(size for size in sizes if not 0 < num_micro_batches % size < stages)


def _scaled(loss_sum: LossSum, batch: PackedBatch, scale: float, output: Tensor) -> tuple[Tensor, dict[str, Any]]:
    return loss_sum(batch, output) * scale, {}


def _zero_loss(output: Tensor) -> tuple[Tensor, dict[str, Any]]:
    return output.sum() * 0, {}


def _run(
    chunks: Sequence[Any], batches: Sequence[PackedBatch], num_padding: int, step: Any, **options: Any
) -> list[Any]:
    """Run the schedule; each micro-batch is paired with a flag, False for padding, which comes last."""
    config, stages = get_model_config(chunks[0]), parallel_state.get_pipeline_model_parallel_world_size()
    num_micro_batches, longest, schedule = len(batches) + num_padding, 0, get_forward_backward_func()
    # A single stage computes the first micro-batch before the last is packed; a pipeline must know all lengths.
    iterators: Any = ((batch, True) for batch in batches)
    if len(chunks) > 1:
        schedule = forward_backward_pipelining_with_interleaving
        config.microbatch_group_size_per_vp_stage = group_size(num_micro_batches, stages)
    if stages > 1:
        run = _with_padding(batches, num_padding)
        lengths = [len(batch.tokens) for batch, _ in run]
        iterators, longest = [iter(run) for _ in chunks], max(lengths)
        options |= p2p_options(config, lengths, len(chunks))
    outputs: list[Any] = schedule(
        forward_step_func=step,
        data_iterator=iterators,
        model=list(chunks),
        num_microbatches=num_micro_batches,
        seq_length=longest,
        micro_batch_size=1,
        **options,
    )
    return outputs


def _with_padding(batches: Sequence[PackedBatch], num_padding: int) -> list[tuple[PackedBatch, bool]]:
    shortest = min(batches, key=lambda batch: len(batch.tokens))
    # Losses that layers add of themselves leave out pairs of weight 0.
    padding = replace(shortest, weights=torch.zeros_like(shortest.weights))
    return [(batch, True) for batch in batches] + [(padding, False)] * num_padding
