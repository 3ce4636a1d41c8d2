"""What is called of `torch.npu`; the device is the host, which `current_device` names."""

from __future__ import annotations

import resource
from contextlib import AbstractContextManager, nullcontext

import torch

devices_set: list[int] = []


def set_device(device: int) -> None:
    devices_set.append(device)


def current_device() -> torch.device:
    return torch.device("cpu")


def device_count() -> int:
    return 8


def is_available() -> bool:
    return True


def is_initialized() -> bool:
    return True


def _is_in_bad_fork() -> bool:
    return False


def synchronize(*_args: object) -> None:
    """The host has nothing to wait for."""


class Stream:
    """A queue of work; the host has one, which is always done."""

    def wait_stream(self, _other: Stream) -> None:
        """Nothing is under way."""

    def synchronize(self) -> None:
        """Nothing is under way."""


_only = Stream()


def current_stream(*_args: object) -> Stream:
    return _only


def stream(_stream: Stream | None) -> AbstractContextManager[None]:
    return nullcontext()


def max_memory_allocated() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def get_rng_state(*_args: object) -> torch.Tensor:
    return torch.get_rng_state()


def set_rng_state(state: torch.Tensor, *_args: object) -> None:
    torch.set_rng_state(state)


def manual_seed(seed: int) -> None:
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would call this module again


def manual_seed_all(seed: int) -> None:
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would call this module again
