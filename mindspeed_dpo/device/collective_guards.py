"""Guards around collectives on NPU that would fail silently.

MindSpeed replaces `all_reduce` by a function that reduces a float64 tensor in a copy, discards the copy, and accepts
its tensor only by position; HCCL does not support float64. The guards reject float64 and pass the tensor by position.
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
"""Without isend and irecv, which torch compares by identity in `batch_isend_irecv`."""


def guard_collectives() -> None:
    """Guard torch's collectives in this process; call it after MindSpeed has replaced them."""
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
    # From torch's own function, since MindSpeed's replacement has no parameter names.
    return next(iter(inspect.signature(getattr(dist.distributed_c10d, name)).parameters))


def _refuse_float64(name: str, value: Any) -> None:
    for tensor in value if isinstance(value, list | tuple) else [value]:
        if torch.is_tensor(tensor) and tensor.dtype == torch.float64:
            raise TypeError(f"device=npu: torch.distributed.{name} of float64 is unsupported; use float32 or integers")
