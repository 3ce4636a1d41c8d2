"""Passes over the micro-batches of a step, through megatron-core's pipeline schedules.

With one stage the schedule is a plain loop; with several it is 1F1B. Every stage reads the same micro-batches, and so
knows the length of every message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.utils import get_model_config
from torch import Tensor

from mindspeed_dpo.batches import PackedBatch
from mindspeed_dpo.engine.messages import known_shapes

# (micro-batch, the model's output for it) -> the sum of its pair losses, a scalar that carries the gradient.
LossSum = Callable[[PackedBatch, Tensor], Tensor]


def forward_backward(model: Any, batches: Sequence[PackedBatch], loss_sum: LossSum, scale: float) -> None:
    """Accumulate the gradient of `scale` times the summed losses of all micro-batches.

    Args:
        model: The wrapped pipeline stage.
        batches: Micro-batches on this rank's device; at least one.
        loss_sum: Called on the last stage only.
        scale: Makes a sum over this rank's pairs the mean over the step, see `loss_scale`.
    """

    def step(iterator: Iterator[PackedBatch], stage: Any) -> tuple[Tensor, Any]:
        batch = next(iterator)
        return stage(batch), partial(_scaled, loss_sum, batch, scale)

    _run(model, batches, step, forward_only=False)


def forward(model: Any, batches: Sequence[PackedBatch]) -> list[Tensor]:
    """The model's output for each micro-batch, without gradient: a list on the last stage, empty elsewhere."""

    def step(iterator: Iterator[PackedBatch], stage: Any) -> tuple[Tensor, Any]:
        return stage(next(iterator)), lambda output, non_loss_data=True: output

    with torch.no_grad():
        return _run(model, batches, step, forward_only=True, collect_non_loss_data=True)


def loss_scale(num_micro_batches: int, data_parallel_size: int, num_pairs: int) -> float:
    """Factor that turns a micro-batch's loss sum into its share of the mean over all pairs of the step.

    The schedule divides by the micro-batches of this rank and the data-parallel wrapper by the ranks; undoing both and
    dividing by the pairs of the whole step makes the gradient independent of every split. Context-parallel ranks do not
    count: the schedule multiplies by them, the wrapper divides by them, and each adds the gradient of its own tokens.
    """
    return num_micro_batches * data_parallel_size / num_pairs


def _scaled(loss_sum: LossSum, batch: PackedBatch, scale: float, output: Tensor) -> tuple[Tensor, dict[str, Any]]:
    return loss_sum(batch, output) * scale, {}


def _run(model: Any, batches: Sequence[PackedBatch], step: Any, **options: Any) -> list[Tensor]:
    schedule = get_forward_backward_func()
    lengths = [len(batch.tokens) for batch in batches]
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        options |= known_shapes(get_model_config(model), lengths)
    return schedule(
        forward_step_func=step,
        data_iterator=iter(batches),
        model=[model],
        num_microbatches=len(batches),
        seq_length=max(lengths),
        micro_batch_size=1,
        **options,
    )
