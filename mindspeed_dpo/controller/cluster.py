"""The Ray cluster a run uses: a running one where there is one, else one of its own on this machine."""

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
    """The cluster cannot be reached or has too little for the run; the message says what is there and what is asked."""


@contextmanager
def cluster(address: str | None, accelerator: Accelerator, pools: Mapping[str, Sequence[int]]) -> Iterator[None]:
    """Connect to a cluster that has room for the pools, and let go of it at the end.

    Without an address (of the configuration or RAY_ADDRESS) the cluster that `ray start` began on this machine is used;
    where there is none, a local one is started.

    Raises:
        ClusterError: No cluster answers at the address, or it has too few devices.
    """
    needed = sum(sum(sizes) for sizes in pools.values())
    _connect(address or os.environ.get("RAY_ADDRESS"), needed)
    try:
        check_room(accelerator, pools)
        yield
    finally:
        ray.shutdown()


def check_room(accelerator: Accelerator, pools: Mapping[str, Sequence[int]]) -> None:
    """See that every entry of every pool fits on some node, all at once.

    Raises:
        ClusterError: They do not.
    """
    resource = accelerator.ray_resource
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    left = {name: node["Resources"].get(resource, 0) for name, node in nodes.items()}
    told = sorted(f"{node['NodeManagerAddress']} has {left[name]:g}" for name, node in nodes.items())
    # Largest first into the fullest node that still fits: exact for equal nodes, which is what pools are written for.
    for size, pool in sorted(((size, pool) for pool, sizes in pools.items() for size in sizes), reverse=True):
        fitting = [name for name, count in left.items() if count >= size]
        if not fitting:
            asked = ", ".join(f"{name}: {list(sizes)}" for name, sizes in pools.items())
            raise ClusterError(
                f"too few devices: resource_pool asks for {asked}, and no node has {size} {resource} left for {pool}; "
                f"the cluster's nodes: {', '.join(told) or 'none'}. Use fewer processes per node or start more nodes "
                f"with ray start --resources='{{\"{resource}\": N}}'"
            )
        left[min(fitting, key=lambda name: left[name])] -= size


def join_running(address: str) -> None:
    """Connect to a cluster that runs.

    Raises:
        ClusterError: None answers there.
    """
    _prepare()
    try:
        ray.init(address=address, **QUIET)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"no Ray cluster answers at {address} ({error}); check ray_address or RAY_ADDRESS, or leave both out. "
            "A cluster that was started with token authentication answers only with RAY_AUTH_MODE=token"
        ) from error


def _prepare() -> None:
    # Nobody asked for statistics to be sent, and a worker without a GPU must not lose sight of its devices.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def _connect(address: str | None, needed: int) -> None:
    if address is not None:
        join_running(address)
        return
    _prepare()
    try:
        _start_or_join(max(os.cpu_count() or 1, needed))
    # Ray raises Exception itself when its processes do not come up in time.
    except Exception as error:
        raise ClusterError(
            f"Ray did not start on this machine ({error}); it may be overloaded or out of memory: try again, or start "
            "a cluster with `ray start --head` first"
        ) from error


def _start_or_join(cpus: int) -> None:
    """Start a local cluster, unless `ray start` began one here, which has resources of its own.

    Processes on the CPU share its cores, so as many are declared as the run needs.
    """
    try:
        ray.init(num_cpus=cpus, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **QUIET)
    except ValueError:
        ray.init(**QUIET)
