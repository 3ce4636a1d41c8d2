"""Passes over the micro-batches of a step, through megatron-core's pipeline schedules.

With one stage the schedule is a plain loop; with several it is 1F1B, with virtual stages interleaved 1F1B. Every stage
reads the same micro-batches, and so knows the length of every message.

Virtual stages are gone through in several rounds, for which there must be as many micro-batches as stages. What is
lacking is made up for by computing the shortest once more and taking no notice of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.pipeline_parallel.schedules import forward_backward_pipelining_with_interleaving
from megatron.core.utils import get_model_config
from torch import Tensor

from mindspeed_dpo.batches import PackedBatch
from mindspeed_dpo.engine.p2p_shapes import known_shapes

# (micro-batch, the model's output for it) -> the sum of its pair losses, a scalar that carries the gradient.
LossSum = Callable[[PackedBatch, Tensor], Tensor]


def forward_backward(
    chunks: Sequence[Any], batches: Sequence[PackedBatch], loss_sum: LossSum, *, replicas: int, num_pairs: int
) -> None:
    """Accumulate the gradient of the mean loss over the pairs of a step.

    Args:
        chunks: The wrapped virtual stages of this rank, or its only stage.
        batches: Micro-batches on this rank's device; at least one.
        loss_sum: Called on the last stage only.
        replicas: Data-parallel size.
        num_pairs: Pairs of the step over all replicas.
    """
    lacking = num_lacking(len(batches), len(chunks))
    scale = loss_scale(len(batches) + lacking, replicas, num_pairs)

    def step(iterator: Iterator[tuple[PackedBatch, bool]], stage: Any) -> tuple[Tensor, Any]:
        batch, counts = next(iterator)
        return stage(batch), partial(_scaled, loss_sum, batch, scale) if counts else _nothing

    _run(chunks, batches, lacking, step, forward_only=False)


def forward(chunks: Sequence[Any], batches: Sequence[PackedBatch]) -> list[Tensor]:
    """The model's output for each micro-batch, without gradient: a list on the last stage, empty elsewhere."""

    def step(iterator: Iterator[tuple[PackedBatch, bool]], stage: Any) -> tuple[Tensor, Any]:
        return stage(next(iterator)[0]), lambda output, non_loss_data=True: output

    lacking = num_lacking(len(batches), len(chunks))
    with torch.no_grad():
        outputs = _run(chunks, batches, lacking, step, forward_only=True, collect_non_loss_data=True)
    return outputs[: len(batches)]


def loss_scale(num_micro_batches: int, data_parallel_size: int, num_pairs: int) -> float:
    """Factor that turns a micro-batch's loss sum into its share of the mean over all pairs of the step.

    The schedule divides by the micro-batches of this rank and the data-parallel wrapper by the ranks; undoing both and
    dividing by the pairs of the whole step makes the gradient independent of every split. Context-parallel ranks do not
    count: the schedule multiplies by them, the wrapper divides by them, and each adds the gradient of its own tokens.
    """
    return num_micro_batches * data_parallel_size / num_pairs


def num_lacking(num_micro_batches: int, chunks: int) -> int:
    """How many micro-batches fewer there are than the schedule of so many virtual stages a rank needs."""
    stages = parallel_state.get_pipeline_model_parallel_world_size()
    return max(0, stages - num_micro_batches) if chunks > 1 else 0


def group_size(num_micro_batches: int, stages: int) -> int:
    """Micro-batches that an interleaved schedule takes through one virtual stage before it turns to the next.

    The fewest, for what is under way takes memory, such that none or at least as many as stages are left for the last
    turn: what returns from the last stage is then there in time.

    Args:
        num_micro_batches: Of the step; no fewer than stages.
        stages: Pipeline-parallel size.
    """
    sizes = range(stages, num_micro_batches + 1)
    return next(size for size in sizes if not 0 < num_micro_batches % size < stages)


def _scaled(loss_sum: LossSum, batch: PackedBatch, scale: float, output: Tensor) -> tuple[Tensor, dict[str, Any]]:
    return loss_sum(batch, output) * scale, {}


def _nothing(output: Tensor) -> tuple[Tensor, dict[str, Any]]:
    return output.sum() * 0, {}


def _run(chunks: Sequence[Any], batches: Sequence[PackedBatch], lacking: int, step: Any, **options: Any) -> list[Any]:
    """Take micro-batches through the pipeline, each with whether it counts, those that do first."""
    config, stages = get_model_config(chunks[0]), parallel_state.get_pipeline_model_parallel_world_size()
    num_micro_batches, longest, schedule = len(batches) + lacking, 0, get_forward_backward_func()
    # One stage may compute the first while the last is not packed yet; a pipeline must know the length of each.
    iterators: Any = ((batch, True) for batch in batches)
    if len(chunks) > 1:
        schedule = forward_backward_pipelining_with_interleaving
        config.microbatch_group_size_per_vp_stage = group_size(num_micro_batches, stages)
    if stages > 1:
        run = _with_lacking(batches, lacking)
        lengths = [len(batch.tokens) for batch, _ in run]
        iterators, longest = [iter(run) for _ in chunks], max(lengths)
        options |= known_shapes(config, lengths, len(chunks))
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


def _with_lacking(batches: Sequence[PackedBatch], lacking: int) -> list[tuple[PackedBatch, bool]]:
    shortest = min(batches, key=lambda batch: len(batch.tokens))
    return [(batch, True) for batch in batches] + [(shortest, False)] * lacking
