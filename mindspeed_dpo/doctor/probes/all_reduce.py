"""Two processes add up a tensor on their devices, asked is `kind`. The first one starts the second.

They join as workers do: the device first, then the group through a store that the first one hosts.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from typing import Any

from mindspeed_dpo.doctor.processes import answer, probe_command, question

SIZE = 1 << 20
MINUTES = 2.0


def add_up(kind: str, rank: int, master: str, store: Any = None) -> float:
    """Join as `rank` of two and add up; seconds that one sum took.

    Raises:
        ValueError: The sum is wrong.
    """
    accelerator = importlib.import_module("mindspeed_dpo.device").activate(kind, rank)
    groups = importlib.import_module("mindspeed_dpo.parallel.groups")
    torch = importlib.import_module("torch")
    groups.join(rank, 2, master, accelerator.backend, MINUTES, store)
    values = torch.arange(SIZE, device=accelerator.device(), dtype=torch.float32) % 1000 * (rank + 1)
    begin = time.perf_counter()
    torch.distributed.all_reduce(values)
    found = values.cpu()
    seconds = time.perf_counter() - begin
    if not torch.equal(found, torch.arange(SIZE, dtype=torch.float32) % 1000 * 3):
        raise ValueError(f"the sum of {SIZE} values over two processes is wrong on {kind}")
    groups.leave()
    return seconds


def lead(kind: str) -> str:
    """Run as the first process and describe the result.

    Raises:
        RuntimeError: The second process failed.
    """
    store = importlib.import_module("mindspeed_dpo.parallel.store").host_store(0)
    master = f"127.0.0.1:{store.port}"
    command = probe_command("all_reduce", {"kind": kind, "rank": 1, "master": master})
    other = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        seconds = add_up(kind, 0, master, store)
        if other.wait() != 0:
            raise RuntimeError(f"the second process ended with code {other.returncode}")
    finally:
        other.kill()
    return f"two processes on {kind} added {SIZE * 4 >> 20} MiB in {seconds * 1000:.0f} ms, the first time"


if __name__ == "__main__":
    asked = question()
    if "rank" in asked:
        add_up(asked["kind"], asked["rank"], asked["master"])
        sys.exit(0)
    answer(lead(asked["kind"]))
