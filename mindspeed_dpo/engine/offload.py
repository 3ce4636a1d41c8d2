"""Optimizer state that lies on the host between updates.

So the device holds either activations or optimizer state, never both at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mindspeed_dpo.engine.optimizer_state import MASTER, MOMENTS, OptimizerState


class OffloadedState:
    """Keeps masters and moments of one rank's optimizer on the host, but for `at_work`.

    The tensors stay the same objects, so that the optimizer does not notice; only where their numbers are changes. A
    master that is the model's own parameter, as under float32, stays on the device.
    """

    def __init__(self, state: OptimizerState) -> None:
        """Take what there is to the host; moments that come later follow after their first update."""
        self._slots = list(state.slots())
        self._own = [not _share_memory(slot.master, parameter) for parameter, slot in self._slots]
        self._hosts: dict[tuple[int, str], Tensor] = {}
        self._leave()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Have the state on the device for an update."""
        for _, tensor, device in self._tensors():
            # A copy also where the device is the host itself, so that this is what runs everywhere.
            tensor.data = tensor.data.to(device, non_blocking=True, copy=True)
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        """Copy what an update changed to the host; it waits, since the host may read the numbers next."""
        for key, tensor, device in self._tensors():
            if key not in self._hosts:
                self._hosts[key] = torch.empty_like(tensor, device="cpu", pin_memory=device.type != "cpu")
            tensor.data = self._hosts[key].copy_(tensor.data)

    def _tensors(self) -> Iterator[tuple[tuple[int, str], Tensor, torch.device]]:
        """What moves: its name here, itself, and the device it works on."""
        for number, ((parameter, slot), is_own) in enumerate(zip(self._slots, self._own, strict=True)):
            state = slot.inner.state[slot.master]
            held = {kind: state[kind] for kind in MOMENTS if kind in state}
            if is_own:
                held[MASTER] = slot.master
            yield from (((number, kind), tensor, parameter.device) for kind, tensor in held.items())


def _share_memory(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
