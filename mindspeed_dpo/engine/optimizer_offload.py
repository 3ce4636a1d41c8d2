"""Optimizer state offloaded to the host between updates.

The device holds either activations or optimizer state, never both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mindspeed_dpo.engine.optimizer_state import MASTER, MOMENTS, OptimizerState


class OffloadedState:
    """Keeps masters and moments of one rank's optimizer on the host except inside `on_device`.

    The tensor objects stay the same, so the optimizer is unaffected; only their storage moves. A master that is the
    model's own parameter, as in float32 training, stays on the device.
    """

    def __init__(self, state: OptimizerState) -> None:
        """Move existing state to the host; moments created later follow after their first update."""
        self._slots = list(state.slots())
        self._own = [not _share_memory(slot.master, parameter) for parameter, slot in self._slots]
        self._hosts: dict[tuple[int, str], Tensor] = {}
        self._to_host()

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """Move the state to the device for the duration of the context."""
        for _, tensor, device in self._tensors():
            # Copy even if the device is the host itself, so that every device runs the same code.
            tensor.data = tensor.data.to(device, non_blocking=True, copy=True)
        try:
            yield
        finally:
            self._to_host()

    def _to_host(self) -> None:
        """Copy the updated state to the host, synchronously, since the host may read it next."""
        for key, tensor, device in self._tensors():
            if key not in self._hosts:
                self._hosts[key] = torch.empty_like(tensor, device="cpu", pin_memory=device.type != "cpu")
            tensor.data = self._hosts[key].copy_(tensor.data)

    def _tensors(self) -> Iterator[tuple[tuple[int, str], Tensor, torch.device]]:
        """Yield each offloaded tensor with its key and its compute device."""
        for number, ((parameter, slot), is_own) in enumerate(zip(self._slots, self._own, strict=True)):
            state = slot.inner.state[slot.master]
            held = {kind: state[kind] for kind in MOMENTS if kind in state}
            if is_own:
                held[MASTER] = slot.master
            yield from (((number, kind), tensor, parameter.device) for kind, tensor in held.items())


def _share_memory(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
