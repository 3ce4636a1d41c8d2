"""Properties and calls that differ between `cpu`, `cuda` and `npu`.

Detecting the kind of device does not initialise one, since the driver, which must not occupy a device, does it too.
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
"""Bytes per unit of `ru_maxrss`."""


@dataclass(frozen=True)
class Accelerator:
    """A kind of device.

    Example:
        Accelerator("npu", "cpu:gloo,npu:hccl", "NPU", is_custom_resource=True)

    Attributes:
        kind: `cpu`, `cuda` or `npu`; also the torch device type.
        backend: Backend for `torch.distributed.init_process_group`; NPU and CUDA use gloo for host tensors.
        ray_resource: Ray resource of which one process takes one unit.
        is_custom_resource: Whether it is a custom resource of Ray (`resources={...}`).
    """

    kind: str
    backend: str
    ray_resource: str
    is_custom_resource: bool = False

    def placed_by(self, ray_resource: str | None) -> Accelerator:
        """Return the same kind of device with another Ray resource, if one is given."""
        return (
            self
            if ray_resource is None
            else replace(self, ray_resource=ray_resource, is_custom_resource=ray_resource not in ("CPU", "GPU"))
        )

    def device(self) -> torch.device:
        """Return the current device of this process; call `set_device` first."""
        if self.kind == "cpu":
            return torch.device("cpu")
        current = self._module.current_device()
        # A substitute module, as in tests, returns a device of another type instead of an index.
        return current if isinstance(current, torch.device) else torch.device(self.kind, current)

    @property
    def _module(self) -> Any:
        return getattr(torch, self.kind)

    def set_device(self, local_rank: int) -> None:
        """Make `local_rank` the current device of this process."""
        if self.kind != "cpu":
            self._module.set_device(local_rank)

    def peak_memory_bytes(self) -> int:
        """Return the peak memory of this process, on its device or in total on the CPU, without synchronising."""
        if self.kind == "cpu":
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_BYTES
        return int(self._module.max_memory_allocated())

    def rng_state(self) -> Tensor:
        """Return the state of the device's random generator: [N] uint8 bytes on the host."""
        getter: Callable[[], Tensor] = torch.get_rng_state if self.kind == "cpu" else self._module.get_rng_state
        return getter()

    def set_rng_state(self, state: Tensor) -> None:
        """Restore the state returned by `rng_state`, [N] uint8 bytes."""
        setter: Callable[[Tensor], None] = torch.set_rng_state if self.kind == "cpu" else self._module.set_rng_state
        setter(state)


_ACCELERATORS = {
    "cpu": Accelerator("cpu", "gloo", "CPU"),
    "cuda": Accelerator("cuda", "cpu:gloo,cuda:nccl", "GPU"),
    "npu": Accelerator("npu", "cpu:gloo,npu:hccl", "NPU", is_custom_resource=True),
}


def find_accelerator(kind: str = "auto") -> Accelerator:
    """Return the accelerator of a kind; `auto` prefers npu, then cuda, then cpu.

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
