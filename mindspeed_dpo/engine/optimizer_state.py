"""Optimizer state per parameter, unsharded and in float32, independent of the optimizer's own layout.

None of megatron-core's formats both loads and reshards under every optimizer. Here each parameter has a master value
and two moments of its own shape, so a checkpoint saved under one layout, with or without the distributed optimizer,
loads under any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params
from torch import Tensor, nn

MASTER = "fp32_param"
MOMENTS = ("exp_avg", "exp_avg_sq")
KINDS = (MASTER, *MOMENTS)


@dataclass(frozen=True)
class Slot:
    """Location of the optimizer state of one model parameter in this process.

    Attributes:
        master: float32 values that the optimizer updates; the parameter itself in unsharded float32 training.
        inner: The torch optimizer that updates them.
        start: First element of the flattened parameter that `master` holds.
    """

    master: Tensor
    inner: torch.optim.Optimizer
    start: int = 0

    def get(self, kind: str) -> Tensor:
        """Return the master or a moment as flat [n] float32 values; a moment that does not exist yet is zero."""
        if kind == MASTER:
            return self.master.detach().flatten()
        state = self.inner.state[self.master]
        return state[kind].flatten() if kind in state else torch.zeros_like(self.master).flatten()

    def set(self, kind: str, value: Tensor) -> None:
        """Copy this slot's elements from the full tensor.

        Args:
            kind: One of `KINDS`.
            value: [numel of the parameter] float32 values.
        """
        mine = value[self.start : self.start + self.master.numel()].view_as(self.master).to(self.master.device)
        if kind == MASTER:
            self.master.data.copy_(mine)
        else:
            self.inner.state[self.master][kind] = mine.clone()


def _slots_of(optimizer: Any) -> Iterator[tuple[nn.Parameter, Slot]]:
    if getattr(optimizer, "is_stub_optimizer", False):
        return  # a stage without experts has an optimizer of experts without parameters
    if isinstance(optimizer, DistributedOptimizer):
        yield from _sharded_slots(optimizer)
    elif isinstance(optimizer, Float16OptimizerWithFloat16Params):
        for models, masters in zip(optimizer.float16_groups, optimizer.fp32_from_float16_groups, strict=True):
            for parameter, master in zip(models, masters, strict=True):
                yield parameter, Slot(master, optimizer.optimizer)
        # Parameters in float32, such as the score head, are their own masters.
        for parameters in optimizer.fp32_from_fp32_groups:
            for parameter in parameters:
                yield parameter, Slot(parameter, optimizer.optimizer)
    else:
        for parameter in optimizer.get_parameters():
            yield parameter, Slot(parameter, optimizer.optimizer)


def _sharded_slots(optimizer: DistributedOptimizer) -> Iterator[tuple[nn.Parameter, Slot]]:
    """Iterate over the parameters of which this rank updates elements.

    Not by the library's index of a parameter in its group, which is wrong where a group has parameters of two dtypes.
    """
    of_dtypes = (
        (optimizer.model_float16_groups, optimizer.shard_fp32_from_float16_groups),
        (optimizer.model_fp32_groups, optimizer.shard_fp32_groups),
    )
    for model_groups, master_groups in of_dtypes:
        for parameters, masters in zip(model_groups, master_groups, strict=True):
            for parameter, master in zip(parameters, masters, strict=True):
                start = optimizer._get_model_param_range_map(parameter)["param"].start
                yield parameter, Slot(master, optimizer.optimizer, start)


def _shard_group(parameter: nn.Parameter) -> Any:
    """The ranks over which the distributed optimizer divides the state of a parameter."""
    if getattr(parameter, "allreduce", True):
        return parallel_state.get_data_parallel_group(with_context_parallel=True)
    return parallel_state.get_expert_data_parallel_group()


class OptimizerState:
    """Reads and writes the state of one rank's optimizer, parameter by parameter."""

    def __init__(self, optimizer: Any) -> None:
        """Locate the state of every parameter in megatron-core's optimizer, chained or single."""
        inner = list(getattr(optimizer, "chained_optimizers", [optimizer]))
        self._slots: dict[nn.Parameter, Slot] = dict(pair for one in inner for pair in _slots_of(one))
        self._is_sharded = any(isinstance(one, DistributedOptimizer) for one in inner)

    def slots(self) -> Iterator[tuple[nn.Parameter, Slot]]:
        """Iterate over the parameters of which this rank updates elements, with the location of their state."""
        return iter(self._slots.items())

    def gather(self, parameter: nn.Parameter, kind: str) -> Tensor:
        """Assemble a full state tensor, float32 values in the shape of the parameter.

        With the distributed optimizer this is a collective over the data- and context-parallel ranks, for experts over
        the ranks that hold the same ones, which sum disjoint pieces and is therefore exact.
        """
        slot = self._slots.get(parameter)
        if not self._is_sharded:
            assert slot is not None, "an unsharded optimizer holds every parameter"
            return slot.get(kind).view(parameter.shape).clone()
        full = torch.zeros(parameter.numel(), dtype=torch.float32, device=parameter.device)
        if slot is not None:
            full[slot.start : slot.start + slot.master.numel()] = slot.get(kind)
        dist.all_reduce(full, dist.ReduceOp.SUM, _shard_group(parameter))
        return full.view(parameter.shape)

    def scatter(self, parameter: nn.Parameter, kind: str, full: Tensor) -> None:
        """Copy this rank's elements from the full state tensor, float32 values in the shape of the parameter."""
        slot = self._slots.get(parameter)
        if slot is not None:
            slot.set(kind, full.flatten())

    @property
    def step_count(self) -> int:
        """Number of updates so far: torch counts per parameter, fused optimizers per group."""
        for slot in self._slots.values():
            state = slot.inner.state[slot.master]
            return int(state["step"] if "step" in state else slot.inner.param_groups[0].get("step", 0))
        return 0

    @step_count.setter
    def step_count(self, count: int) -> None:
        for slot in self._slots.values():
            if isinstance(slot.inner, torch.optim.AdamW):
                # One tensor per parameter, since torch increments each in place.
                slot.inner.state[slot.master]["step"] = torch.tensor(float(count))
            else:
                for group in slot.inner.param_groups:
                    group["step"] = count
