"""Shared helpers of the benchmarks: child processes, time and memory, description of the machine."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

Result = dict[str, float]


class Clock:
    """Wall and CPU seconds of this process, all threads, since construction."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> Result:
        return {"wall_s": time.perf_counter() - self._wall, "cpu_s": time.process_time() - self._cpu}


def peak_mib() -> float:
    """Return the peak resident memory of this process, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def family_cpu_s() -> float:
    """Return the CPU seconds of this process and its running child processes."""
    children = (child.cpu_times() for child in psutil.Process().children(recursive=True))
    return time.process_time() + sum(used.user + used.system for used in children)


def family_peak_mib() -> float:
    """Return the peak resident memory of this process plus the current one of its running child processes, in MiB."""
    children = psutil.Process().children(recursive=True)
    return peak_mib() + sum(child.memory_info().rss for child in children) / 1024**2


def least_seconds(function: Callable[[], Any], times: int = 5) -> float:
    """Return the minimum CPU seconds of this thread for a call, after a warm-up call."""
    function()
    seconds = []
    for _ in range(times):
        start = time.thread_time()
        function()
        seconds.append(time.thread_time() - start)
    return min(seconds)


def gemm_peak(dtype: torch.dtype, size: int = 1536, times: int = 5) -> float:
    """Return the best GFLOP per CPU-second of a large square product on one thread, in the three orders of training.

    CPU seconds are used because another job on the core would lower the peak and raise the shares computed from it.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    products = (lambda: a @ b.t(), lambda: a @ b, lambda: a.t() @ b)
    seconds = min(least_seconds(product, times) for product in products)
    torch.set_num_threads(threads)
    return 2 * size**3 / 1e9 / seconds


def in_child(
    script: Path, arguments: Sequence[str], environment: Mapping[str, str | None] | None = None, python: str = ""
) -> Any:
    """Run a script in a child process and return its last output line, parsed as JSON.

    Args:
        script: Script to run.
        arguments: Its arguments.
        environment: Environment variables to set; None unsets a variable.
        python: Interpreter; empty for that of this process.
    """
    variables: dict[str, str | None] = {**os.environ, **(environment or {})}
    done = subprocess.run(
        [python or sys.executable, str(script), *arguments],
        env={name: value for name, value in variables.items() if value is not None},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{script.name} {' '.join(arguments)} failed:\n{done.stdout[-2000:]}{done.stderr[-6000:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"{script.name} {' '.join(arguments)}: {json.dumps(result)}", file=sys.stderr, flush=True)
    return result


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float], unit: str = "x") -> str:
    """Format the median and the range of values."""
    return f"{median(values):.2f}{unit} ({min(values):.2f}-{max(values):.2f})"


def machine(*libraries: Any) -> str:
    """Describe processor, load and versions, for the caption of a table."""
    versions = ", ".join(f"{library.__name__} {library.__version__}" for library in (torch, *libraries))
    return (
        f"{cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}; {versions}, "
        f"Python {platform.python_version()}"
    )


def cpu_name() -> str:
    """Return the processor's model name."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
