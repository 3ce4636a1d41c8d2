"""Parallel layouts that a run may have, with their estimated memory and relative time.

The relative time orders layouts that fit; it is no prediction. Recomputation repeats the forward pass, a third of the
operations of a step; tensor parallelism exchanges activations in every layer; a pipeline of p stages idles for p - 1 of
m + p - 1 passes (Narayanan et al. 2021, arXiv:2104.04473, section 2.2.1); experts on other devices are reached by two
exchanges per layer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mindspeed_dpo.config.estimates.run_summary import device_memory
from mindspeed_dpo.config.run import RunConfig

LAYOUT_KEYS = (
    *("tensor_model_parallel_size", "pipeline_model_parallel_size", "expert_model_parallel_size"),
    *("sequence_parallel", "recompute_granularity", "recompute_method", "recompute_num_layers"),
)
"""Keys that an automatic layout sets."""
_FULL = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
_TENSOR_COST, _EXPERT_COST, _RECOMPUTE_COST = 0.06, 0.05, 1 / 3


@dataclass(frozen=True)
class LayoutCandidate:
    """One layout: `LayoutCandidate(tp=2, pp=1, ep=1, dp=4, recomputes=False, num_bytes=…, relative_time=1.06)`.

    Attributes:
        tp: Tensor-parallel size.
        pp: Pipeline-parallel size.
        ep: Expert-parallel size.
        dp: Data-parallel size.
        recomputes: Whether complete layers are recomputed.
        num_bytes: Estimated memory of the fullest device.
        relative_time: Estimated time of a step, relative to data parallelism alone without recomputation.
    """

    tp: int
    pp: int
    ep: int
    dp: int
    recomputes: bool
    num_bytes: int
    relative_time: float

    def describe(self, has_experts: bool) -> str:
        """Return the sizes as text."""
        sizes = f"TP {self.tp}, PP {self.pp}, {f'EP {self.ep}, ' if has_experts else ''}DP {self.dp}"
        return f"{sizes}, {'full' if self.recomputes else 'no'} recomputation"


def sizes_to_try(run: RunConfig) -> Iterator[dict[str, Any]]:
    """Yield the settings of every layout whose sizes divide the model and the processes of a run."""
    model, processes = run.actor.model, run.num_processes("actor")
    experts = model.num_experts or 1
    for tp, pp, ep in itertools.product(_divisors(processes), repeat=3):
        divides = model.num_attention_heads % tp == 0 and model.num_layers % pp == 0 and experts % ep == 0
        if divides and processes % (tp * pp) == 0 and (processes // pp) % ep == 0:
            sizes = {"tensor_model_parallel_size": tp, "pipeline_model_parallel_size": pp}
            sizes |= {"expert_model_parallel_size": ep} if experts > 1 else {}
            for recompute in ({}, _FULL):
                yield {**sizes, "sequence_parallel": tp > 1, **recompute}


def candidate(run: RunConfig) -> LayoutCandidate:
    """Return the layout of a valid run with its estimates."""
    parallel, dp = run.actor.parallel, run.data_parallel_size("actor")
    tp, pp, ep = (
        parallel.tensor_model_parallel_size,
        parallel.pipeline_model_parallel_size,
        parallel.expert_parallel_size,
    )
    recomputes = run.actor.recompute.recompute_granularity == "full"
    passes = max(1, math.ceil(run.actor.batch.global_batch_size / dp / (run.actor.batch.micro_batch_size or 1)))
    time = (1 + _RECOMPUTE_COST * recomputes) * (1 + _TENSOR_COST * (tp - 1)) * (1 + _EXPERT_COST * (ep > 1))
    time *= (passes + pp - 1) / passes
    return LayoutCandidate(tp, pp, ep, dp, recomputes, _fullest(device_memory(run)), time)


def _fullest(memory: Mapping[str, list[tuple[str, int]]]) -> int:
    return max(sum(size for _, size in parts) for parts in memory.values())


def _divisors(count: int) -> list[int]:
    return [size for size in range(1, count + 1) if count % size == 0]
