"""Which library's kernels this process uses: none, or those of torch_npu once the device is active.

An operator asks here for each call, so that a tensor that is not on the device takes the plain form.
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
        library: The module that has them, such as torch_npu.
        device_type: Type of the devices whose tensors they take.
    """

    library: Any
    device_type: str

    def has(self, *names: str) -> bool:
        """Whether the installed version has all of these operators."""
        return all(hasattr(self.library, name) for name in names)


_chosen: list[Kernels] = []


def use(kernels: Kernels | None) -> None:
    """Take these kernels from now on in this process; None goes back to the plain forms."""
    _chosen[:] = [] if kernels is None else [kernels]


def kernels_for(tensor: Tensor) -> Kernels | None:
    """The kernels for a tensor, or None where the plain form serves."""
    return kernels_on(tensor.device)


def kernels_on(device: torch.device) -> Kernels | None:
    """The kernels for tensors of a device, or None where the plain forms serve."""
    return _chosen[0] if _chosen and device.type == _chosen[0].device_type else None
