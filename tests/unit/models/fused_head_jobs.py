"""Jobs of the fused head for the processes of a pool on the reference NPU, with the operators of torch_npu 2.13."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from mindspeed_dpo.models.vocab_shard import VocabShard
from mindspeed_dpo.workers.colocated_roles import ColocatedRoles
from mindspeed_dpo.workers.setup.model_builder import fuses_head
from mindspeed_dpo.workers.setup.worker_context import WorkerContext
from tests.support.npu_facts import V27, V213
from tests.unit.models.head_jobs import Case, Scored, score

FORWARD = "npu_fused_linear_online_max_sum"
BACKWARD = "npu_fused_linear_cross_entropy_loss_with_max_sum_backward"


class Outcome(NamedTuple):
    """The fused and the plain head's results over this process's share, and the operators that were called."""

    fused: Scored
    plain: Scored
    calls: list[str]


def scored(inputs: Case, end_belongs: bool) -> Outcome:
    """Score this process's share both ways, on a device that counts the end of a range in or not."""
    size = len(inputs.weight) // dist.get_world_size()
    start = size * dist.get_rank()
    shard = VocabShard(start, size, inputs.vocab_size, dist.group.WORLD)
    weight = inputs.weight[start : start + size]
    plain = score(inputs, shard, weight, statistics=False)
    ends = importlib.import_module("torch_npu.cross_entropy").END_BELONGS
    with wheel(V213), called() as calls:
        ends[0] = end_belongs
        try:
            return Outcome(score(inputs, shard, weight, statistics=False, fused=True), plain, calls)
        finally:
            ends[0] = False


@contextmanager
def wheel(version: str) -> Iterator[Any]:
    """Have the operators of that version meanwhile."""
    library = sys.modules["torch_npu"]
    library.follow(version)
    try:
        yield library
    finally:
        library.follow(V27)


@contextmanager
def called() -> Iterator[list[str]]:
    """The operators that are called meanwhile, filled at the end."""
    names: list[str] = []
    recorded = sys.modules["torch_npu"].calls
    before = len(recorded)
    try:
        yield names
    finally:
        names += [call.operator for call in recorded[before:]]


class Decided(NamedTuple):
    """Whether the head is fused, and what was warned of."""

    fuses: bool
    warnings: list[str]


def decided(colocated: ColocatedRoles, versions: tuple[str, ...], fault: str | None) -> Decided:
    """What the actor of a run decides under a wheel, each rank its own, whose operators may have a fault."""
    context: WorkerContext = colocated.context
    version = versions[dist.get_rank() % len(versions)]
    model = context.run.actor.model
    size = (model.padded_vocab_size or model.vocab_size) // context.place.topology.tp
    shard = VocabShard(0, size, model.vocab_size)
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(fuses_head.__module__)
    logger.addHandler(handler)
    try:
        with wheel(version) as library:
            if fault is not None:
                for name, faulty in FAULTS[fault](library).items():
                    setattr(library, name, faulty)
            return Decided(fuses_head(context, context.run.actor, shard), messages)
    finally:
        logger.removeHandler(handler)


def _refuses(_library: Any) -> dict[str, Callable[..., Any]]:
    def operator(*_args: Any, **_options: Any) -> Any:
        raise RuntimeError("this device has no such kernel")

    return {FORWARD: operator}


def _sums_off(library: Any) -> dict[str, Callable[..., Any]]:
    original = getattr(library, FORWARD)

    def operator(*args: Any, **options: Any) -> Any:
        highest, sums, *rest = original(*args, **options)
        return (highest, 2 * sums, *rest)

    return {FORWARD: operator}


def _mask_turned(library: Any) -> dict[str, Callable[..., Any]]:
    """A backward half that takes a set bit for a label that is here."""
    original = getattr(library, BACKWARD)
    return {BACKWARD: lambda grad, rows, weight, mask, *rest, **o: original(grad, rows, weight, ~mask, *rest, **o)}


FAULTS = {"refuses": _refuses, "sums off": _sums_off, "mask turned": _mask_turned}


def cast(inputs: Case, dtype: torch.dtype) -> Case:
    """The same case in another number format."""
    return replace(inputs, hidden=inputs.hidden.to(dtype), weight=inputs.weight.to(dtype))


def follow(version: str) -> None:
    """Have the operators of that version from now on."""
    sys.modules["torch_npu"].follow(version)


def called_operators() -> set[str]:
    """Every operator that this process has called."""
    return {call.operator for call in sys.modules["torch_npu"].calls}
