"""Connects to the Ray cluster of a run: a running one, or a local one started for the run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray

from mindspeed_dpo.device import Accelerator

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 100 * 1024 * 1024
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}


class ClusterError(RuntimeError):
    """The cluster cannot be reached or has too few devices; the message says what it has and what the run needs."""


@contextmanager
def cluster(address: str | None, accelerator: Accelerator, pools: Mapping[str, Sequence[int]]) -> Iterator[None]:
    """Connect to a cluster with enough devices for the pools, and disconnect at the end.

    Without an address (in the configuration or RAY_ADDRESS) the cluster that `ray start` started on this machine is
    used; without one, a local cluster is started.

    Args:
        address: `host:port` of the cluster, or None.
        accelerator: Kind of device.
        pools: Pool name -> processes per node.

    Raises:
        ClusterError: No cluster responds at the address, or it has too few devices.
    """
    needed = sum(sum(sizes) for sizes in pools.values())
    _connect(address or os.environ.get("RAY_ADDRESS") or None, needed)
    try:
        check_capacity(accelerator, pools)
        yield
    finally:
        ray.shutdown()


def check_capacity(accelerator: Accelerator, pools: Mapping[str, Sequence[int]]) -> None:
    """Check that every entry of every pool fits on a node, all at the same time.

    Raises:
        ClusterError: They do not fit.
    """
    resource = accelerator.ray_resource
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    free = {name: node["Resources"].get(resource, 0) for name, node in nodes.items()}
    capacities = sorted(f"{node['NodeManagerAddress']} has {free[name]:g}" for name, node in nodes.items())
    # Largest first, into the fullest node that still fits: exact for nodes of equal size, which pools assume.
    for size, pool in sorted(((size, pool) for pool, sizes in pools.items() for size in sizes), reverse=True):
        fitting = [name for name, count in free.items() if count >= size]
        if not fitting:
            requested = ", ".join(f"{name}: {list(sizes)}" for name, sizes in pools.items())
            raise ClusterError(
                f"too few devices: resource_pool requests {requested}, and no node has {size} {resource} left for "
                f"{pool}; the cluster's nodes: {', '.join(capacities) or 'none'}. Use fewer processes per node or "
                f"start more nodes with ray start --resources='{{\"{resource}\": N}}'"
            )
        free[min(fitting, key=lambda name: free[name])] -= size


def join_running(address: str) -> None:
    """Connect to a running cluster.

    Raises:
        ClusterError: No cluster responds at the address.
    """
    _prepare()
    try:
        ray.init(address=address, **QUIET)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"no Ray cluster responds at {address} ({error}); check ray_address or RAY_ADDRESS, or unset both. "
            "A cluster started with token authentication responds only with RAY_AUTH_MODE=token"
        ) from error


def _prepare() -> None:
    # No usage statistics are sent, and Ray must not hide the devices of a worker that requests no GPU.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def _connect(address: str | None, needed: int) -> None:
    if address is not None:
        join_running(address)
        return
    _prepare()
    try:
        _start_or_join(max(os.cpu_count() or 1, needed))
    # Ray raises a bare Exception when its processes do not start in time.
    except Exception as error:
        raise ClusterError(
            f"Ray did not start on this machine ({error}); it may be overloaded or out of memory: try again, or start "
            "a cluster with `ray start --head` first"
        ) from error


def _start_or_join(cpus: int) -> None:
    """Start a local cluster, or join the one that `ray start` started here, whose resources are already declared.

    Processes on the CPU share its cores, so as many CPUs are declared as the run needs.
    """
    try:
        ray.init(num_cpus=cpus, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **QUIET)
    except ValueError:
        ray.init(**QUIET)
