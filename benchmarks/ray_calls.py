"""Memory of Ray's processes per 1000 calls of two workers, with Ray's defaults and as a run starts its cluster.

python benchmarks/ray_calls.py [--calls 5000]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from contextlib import ExitStack

import psutil
import ray

from mindspeed_dpo.controller.ray_connection import OBJECT_STORE_BYTES, QUIET, start_private_cluster

MB = 1e6
BLOCK = 1000
NAMES = ("gcs_server", "raylet")


@ray.remote
class Worker:
    """Answers as a worker process does at each step: a few numbers."""

    def step(self, number: int) -> dict[str, float]:
        """Return metrics."""
        return {"loss": float(number)}


def memory_mb() -> list[float]:
    """Resident memory of gcs_server, raylet and this process, in MB."""
    children = psutil.Process().children(recursive=True)
    of_ray = [process for name in NAMES for process in children if process.name() == name]
    return [process.memory_info().rss / MB for process in (*of_ray, psutil.Process())]


def measure(is_private: bool, num_calls: int) -> None:
    """Start a cluster, call, and print the growth from the first block of calls to the last."""
    with ExitStack() as stack:
        if is_private:
            stack.enter_context(start_private_cluster(2))
        else:
            ray.init(
                address="local", num_cpus=2, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **QUIET
            )
            stack.callback(ray.shutdown)
        workers = [Worker.remote() for _ in range(2)]
        blocks = []
        for start in range(0, num_calls + BLOCK, BLOCK):
            for number in range(start, start + BLOCK):
                argument = ray.put(number)
                ray.get([worker.step.remote(argument) for worker in workers])
            blocks.append(memory_mb())
        growth = [(last - first) / num_calls * BLOCK for first, last in zip(blocks[0], blocks[-1], strict=True)]
        kind = "as a run starts it" if is_private else "Ray's defaults"
        columns = ", ".join(f"{name} {value:+.2f}" for name, value in zip((*NAMES, "driver"), growth, strict=True))
        print(f"{kind}: MB per 1000 steps of 2 calls: {columns}", flush=True)


def main() -> None:
    """Measure both, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=5000, help="steps to measure after the first 1000")
    parser.add_argument("--kind", choices=("defaults", "private"), help="measure only this, in this process")
    options = parser.parse_args()
    if options.kind:
        measure(options.kind == "private", options.calls)
        return
    for kind in ("defaults", "private"):
        subprocess.run([sys.executable, __file__, f"--calls={options.calls}", f"--kind={kind}"], check=True)


if __name__ == "__main__":
    main()
