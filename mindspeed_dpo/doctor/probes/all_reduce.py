"""Probe of an all-reduce of two processes, each on its device. Argument: `kind`. Result: a sentence with the time.

The first process starts the second. Like workers, both activate their device and then join through a store, which the
first one hosts.
"""

from __future__ import annotations

import subprocess
import time

import torch
import torch.distributed as dist

from mindspeed_dpo.device import activate
from mindspeed_dpo.doctor.probe_processes import print_result, probe_arguments, probe_command
from mindspeed_dpo.parallel.rendezvous_store import host_store

NUM_VALUES = 1 << 20
TIMEOUT_MINUTES = 2.0


def all_reduce(kind: str, rank: int, master: str, store: dist.Store | None = None) -> float:
    """Join as one of two processes, all-reduce a tensor and return the time in seconds.

    Raises:
        ValueError: The sum is incorrect.
    """
    accelerator = activate(kind, rank)
    # Deferred: it imports megatron-core, which must follow the activation of the device.
    from mindspeed_dpo.parallel import process_groups

    process_groups.join(rank, 2, master, accelerator.backend, TIMEOUT_MINUTES, store)
    values = torch.arange(NUM_VALUES, device=accelerator.device(), dtype=torch.float32) % 1000 * (rank + 1)
    start = time.perf_counter()
    dist.all_reduce(values)
    result = values.cpu()
    seconds = time.perf_counter() - start
    if not torch.equal(result, torch.arange(NUM_VALUES, dtype=torch.float32) % 1000 * 3):
        raise ValueError(f"the sum of {NUM_VALUES} values over two processes is incorrect on {kind}")
    process_groups.leave()
    return seconds


def run_both(kind: str) -> str:
    """Start the second process, run as the first one and describe the result.

    Raises:
        RuntimeError: The second process failed.
    """
    hosted = host_store()
    second = subprocess.Popen(
        probe_command("all_reduce", {"kind": kind, "rank": 1, "master": hosted.address}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        seconds = all_reduce(kind, 0, hosted.address, hosted.store)
        if second.wait() != 0:
            raise RuntimeError(f"the second process exited with code {second.returncode}")
    finally:
        second.kill()
    return f"two processes on {kind}: {NUM_VALUES * 4 >> 20} MiB in {seconds * 1000:.0f} ms, first call"


def main() -> None:
    """Run as the first process, or as the one that the arguments name."""
    arguments = probe_arguments()
    if "rank" in arguments:
        all_reduce(arguments["kind"], arguments["rank"], arguments["master"])
    else:
        print_result(run_both(arguments["kind"]))


if __name__ == "__main__":
    main()
