"""The number of devices of a kind that a process sees, and their memory, without occupying one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

_DEVICE_FILES = {"npu": re.compile(r"davinci\d+"), "cuda": re.compile(r"nvidia\d+")}
_VISIBLE = {"npu": "ASCEND_RT_VISIBLE_DEVICES", "cuda": "CUDA_VISIBLE_DEVICES"}
_ASSUMED_GIB = {"npu": 64.0, "cuda": 80.0}
"""Memory of an Atlas A2 or A3 device and of the most common accelerators of a data centre: asking would occupy one."""


def num_devices(kind: str, environment: Mapping[str, str] = os.environ, folder: Path = Path("/dev")) -> int:
    """Return the number of devices of a kind that a process sees, at least 1; on the CPU it is 1.

    Args:
        kind: `cpu`, `cuda` or `npu`.
        environment: Variables of the process, one of which may limit the devices.
        folder: Folder of the device files.
    """
    pattern = _DEVICE_FILES.get(kind)
    if pattern is None:
        return 1
    count = sum(bool(pattern.fullmatch(path.name)) for path in folder.iterdir())
    visible = environment.get(_VISIBLE[kind])
    if visible is not None:
        count = min(count, len([word for word in visible.split(",") if word.strip()]))
    return max(1, count)


def assumed_memory_gib(kind: str, num_processes: int) -> float:
    """Return the memory of a device in GiB: on the CPU a process's share of that of the machine."""
    if kind in _ASSUMED_GIB:
        return _ASSUMED_GIB[kind]
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return round(machine / max(1, num_processes), 1)
