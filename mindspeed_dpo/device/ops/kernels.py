"""The library of kernels that this process uses: none, or torch_npu once the device is active.

Operators look it up at each call, so that tensors on another device use the plain form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Kernels:
    """A library of fused operators.

    Attributes:
        library: The module with the operators, such as torch_npu.
        device_type: Type of the devices that they run on.
    """

    library: Any
    device_type: str

    def has(self, *names: str) -> bool:
        """Return whether the installed version has all of these operators."""
        return all(hasattr(self.library, name) for name in names)


_chosen: list[Kernels] = []


def use(kernels: Kernels | None) -> None:
    """Set the kernels of this process; None selects the plain forms."""
    _chosen[:] = [] if kernels is None else [kernels]


def kernels_for(tensor: Tensor) -> Kernels | None:
    """Return the kernels for a tensor of any shape, dtype and any unit, or None if the plain form is to be used."""
    return kernels_on(tensor.device)


def kernels_on(device: torch.device) -> Kernels | None:
    """Return the kernels for tensors of a device, or None if the plain forms are to be used."""
    return _chosen[0] if _chosen and device.type == _chosen[0].device_type else None
