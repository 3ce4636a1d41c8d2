"""The face of a device: what differs between `cpu`, `cuda` and `npu`, as data and a few calls.

Finding out which device there is must not initialise it: the driver asks too, and must not take a device.
"""

from __future__ import annotations

import importlib.util
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

KINDS = ("cpu", "cuda", "npu")
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
"""Bytes in the unit in which the system tells how large a process has been."""


@dataclass(frozen=True)
class Accelerator:
    """One kind of device.

    Attributes:
        kind: `cpu`, `cuda` or `npu`; also the torch device type.
        backend: What `torch.distributed.init_process_group` gets. NPU keeps a gloo side for host tensors.
        ray_resource: The Ray resource that one process of this kind takes.
        is_custom_resource: Whether Ray knows the resource by name only (`resources={...}`).
    """

    kind: str
    backend: str
    ray_resource: str
    is_custom_resource: bool = False

    def placed_by(self, ray_resource: str | None) -> Accelerator:
        """The same kind of device, its processes placed by another Ray resource if one is named."""
        return (
            self
            if ray_resource is None
            else replace(self, ray_resource=ray_resource, is_custom_resource=ray_resource not in ("CPU", "GPU"))
        )

    def device(self) -> torch.device:
        """The device of this process: the current one, after `set_device`."""
        if self.kind == "cpu":
            return torch.device("cpu")
        current = self._module.current_device()
        # A module that stands in for a device's own, as in tests, names a device of another type instead of an index.
        return current if isinstance(current, torch.device) else torch.device(self.kind, current)

    @property
    def _module(self) -> Any:
        return getattr(torch, self.kind)

    def set_device(self, local_rank: int) -> None:
        """Make `local_rank` the current device of this process."""
        if self.kind != "cpu":
            self._module.set_device(local_rank)

    def peak_memory_bytes(self) -> int:
        """Most memory this process has had so far: on its device, or all of it on the CPU. Asks no device to wait."""
        if self.kind == "cpu":
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_BYTES
        return int(self._module.max_memory_allocated())

    def rng_state(self) -> Tensor:
        """State of the device's random generator, a uint8 tensor on the host."""
        getter: Callable[[], Tensor] = torch.get_rng_state if self.kind == "cpu" else self._module.get_rng_state
        return getter()

    def set_rng_state(self, state: Tensor) -> None:
        """Restore what `rng_state` gave."""
        setter: Callable[[Tensor], None] = torch.set_rng_state if self.kind == "cpu" else self._module.set_rng_state
        setter(state)


_ACCELERATORS = {
    "cpu": Accelerator("cpu", "gloo", "CPU"),
    "cuda": Accelerator("cuda", "cpu:gloo,cuda:nccl", "GPU"),
    "npu": Accelerator("npu", "cpu:gloo,npu:hccl", "NPU", is_custom_resource=True),
}


def find_accelerator(kind: str = "auto") -> Accelerator:
    """The accelerator of the given kind; `auto` prefers npu, then cuda, then cpu.

    Raises:
        ValueError: The kind is unknown.
    """
    if kind == "auto":
        kind = _detect()
    if kind not in _ACCELERATORS:
        raise ValueError(f"device={kind!r} is unknown; choose auto, {', '.join(KINDS)}")
    return _ACCELERATORS[kind]


def _detect() -> str:
    # find_spec does not import torch_npu, which would fail without CANN.
    if importlib.util.find_spec("torch_npu") is not None:
        return "npu"
    return "cuda" if torch.cuda.is_available() else "cpu"
