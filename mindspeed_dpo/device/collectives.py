"""Collectives on NPU, kept from going wrong in silence.

MindSpeed replaces `all_reduce` by one that reduces a float64 tensor in a copy and drops the copy, and that knows its
tensor only by position; HCCL carries no float64 at all. So float64 is refused, and a tensor always goes by position.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

GUARDED = (
    "all_reduce", "reduce", "broadcast", "all_gather", "all_gather_into_tensor", "reduce_scatter",
    "reduce_scatter_tensor", "all_to_all_single",
)  # fmt: skip
"""Not isend and irecv: torch compares those it is given with its own when it sends several messages at once."""


def guard_collectives() -> None:
    """Guard torch's collectives in this process, once its last replacement of them is in place."""
    for name in GUARDED:
        collective = getattr(dist, name)
        if not hasattr(collective, "guarded_from"):
            setattr(dist, name, _guarded(name, collective))


def _guarded(name: str, collective: Callable[..., Any]) -> Callable[..., Any]:
    first = _first_argument(name)

    @functools.wraps(collective)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if not args and first in kwargs:
            args = (kwargs.pop(first),)
        for value in (*args, *kwargs.values()):
            _refuse_float64(name, value)
        return collective(*args, **kwargs)

    guarded.guarded_from = collective  # type: ignore[attr-defined]
    return guarded


def _first_argument(name: str) -> str:
    # MindSpeed's replacement has no names, torch's own has.
    return next(iter(inspect.signature(getattr(dist.distributed_c10d, name)).parameters))


def _refuse_float64(name: str, value: Any) -> None:
    for tensor in value if isinstance(value, list | tuple) else [value]:
        if torch.is_tensor(tensor) and tensor.dtype == torch.float64:
            raise TypeError(
                f"device=npu: torch.distributed.{name} of float64 would be lost or refused; send float32 or integers"
            )
