"""Compares the processes of a run on the CPU with the cores and the memory of this machine, before they start."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import psutil

from mindspeed_dpo.config.estimates.run_summary import device_memory, format_bytes
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.controller.ray_connection import ClusterError

logger = logging.getLogger(__name__)

PROCESS_BYTES = 300 * 2**20
"""Memory of a worker process without a model: mostly torch and megatron-core, the part that processes do not share."""
MAX_PROCESSES_PER_CORE = 8
"""More would spend their time on switching, and on waiting for each other at start."""
CGROUP = Path("/sys/fs/cgroup")


def check_host(run: RunConfig) -> None:
    """Check that this machine carries the processes of a run on the CPU, and log when they share its cores.

    Raises:
        ClusterError: There are too many for its cores, or they need more memory than is available.
    """
    num_processes, num_cores = sum(sum(sizes) for sizes in run.pools.values()), os.cpu_count() or 1
    pools = ", ".join(f"{name}: {list(sizes)}" for name, sizes in run.pools.items())
    if num_processes > MAX_PROCESSES_PER_CORE * num_cores:
        raise ClusterError(
            f"resource_pool requests {num_processes} processes ({pools}), and this machine has {num_cores} cores, "
            f"which carry at most {MAX_PROCESSES_PER_CORE} each; use fewer processes, or a cluster (ray_address)"
        )
    needed, available = needed_bytes(run), available_bytes()
    if needed > available:
        raise ClusterError(
            f"resource_pool requests {num_processes} processes ({pools}), which need about {format_bytes(needed)} of "
            f"memory; {format_bytes(available)} are available on this machine. Use fewer processes or a smaller model"
        )
    if num_processes > num_cores:
        logger.warning("%d processes share the %d cores of this machine", num_processes, num_cores)


def needed_bytes(run: RunConfig) -> int:
    """Return the estimated memory of all processes of a run, in bytes."""
    of_models = {pool: sum(size for _, size in parts) for pool, parts in device_memory(run).items()}
    return sum(sum(sizes) * (PROCESS_BYTES + of_models.get(pool, 0)) for pool, sizes in run.pools.items())


def available_bytes(cgroup: Path = CGROUP) -> int:
    """Return the memory that processes on this machine can still take, also within the limit of a container."""
    available = int(psutil.virtual_memory().available)
    try:
        limit = (cgroup / "memory.max").read_text(encoding="utf-8").strip()
        current = int((cgroup / "memory.current").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return available
    return available if limit == "max" else min(available, int(limit) - current)
