"""Connects to the Ray cluster of a run: the one that is named, one that this user began here, or one of its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from mindspeed_dpo.controller.local_raylets import Raylet, raylet_begun_here
from mindspeed_dpo.controller.ray_connection import (
    ClusterError,
    join_raylet,
    raylet_at,
    start_private_cluster,
)
from mindspeed_dpo.device import Accelerator

logger = logging.getLogger(__name__)

LOCAL, AUTOMATIC = "local", "auto"
"""Words that Ray takes for an address: start a cluster, and look for one."""
NOT_USED = "the Ray cluster at %s, begun with ray start, is not used: %s"


@dataclass(frozen=True)
class Node:
    """A live node of a cluster.

    Example:
        Node("9f2c", "10.0.0.1", {"CPU": 64.0, "NPU": 8.0})

    Attributes:
        name: Ray's id of it.
        address: Its IP address.
        resources: Number of units by Ray resource, in total.
    """

    name: str
    address: str
    resources: Mapping[str, float]


@contextmanager
def cluster(
    address: str | None,
    accelerator: Accelerator,
    pools: Mapping[str, Sequence[int]],
    before_start: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Connect to a cluster with enough devices for the pools, and disconnect at the end.

    Without an address (in the configuration or RAY_ADDRESS) the cluster that this user began with `ray start` on this
    machine is used if it is alive and has the devices; otherwise a cluster is started for this run alone.

    Args:
        address: `host:port` of the cluster, or None.
        accelerator: Kind of device.
        pools: Pool name -> processes per node.
        before_start: Called before a cluster is started on this machine; may raise.

    Raises:
        ClusterError: No cluster responds at the address, or it has too few devices.
    """
    address = requested_address(address)
    with ExitStack() as stack:
        if address not in (LOCAL, AUTOMATIC):
            stack.enter_context(join_raylet(raylet_at(address)))
        elif address == LOCAL or not _joined(raylet_begun_here(), accelerator, pools, stack):
            before_start()
            stack.enter_context(start_private_cluster(declared_cpus(pools)))
        check_capacity(accelerator, pools, connected_nodes())
        yield


def requested_address(configured: str | None) -> str:
    """Return the address that the configuration or RAY_ADDRESS names, or `AUTOMATIC`."""
    return configured or os.environ.get("RAY_ADDRESS") or AUTOMATIC


def declared_cpus(pools: Mapping[str, Sequence[int]]) -> int:
    """Return the CPUs that a cluster of a run's own declares: processes on the CPU share the cores."""
    return max(os.cpu_count() or 1, sum(sum(sizes) for sizes in pools.values()))


def _joined(
    raylet: Raylet | None, accelerator: Accelerator, pools: Mapping[str, Sequence[int]], stack: ExitStack
) -> bool:
    """Join a cluster that was begun here if the pools fit, until the stack closes, and say so."""
    if raylet is None:
        return False
    with ExitStack() as attempt:
        try:
            attempt.enter_context(join_raylet(raylet))
            check_capacity(accelerator, pools, connected_nodes())
        except ClusterError as error:
            logger.info(NOT_USED, raylet.address, error)
            return False
        logger.info("using the Ray cluster at %s, begun with ray start on this machine", raylet.address)
        stack.push(attempt.pop_all())
    return True


def check_capacity(accelerator: Accelerator, pools: Mapping[str, Sequence[int]], nodes: Sequence[Node]) -> None:
    """Check that every entry of every pool fits on a node, all at the same time.

    Raises:
        ClusterError: They do not fit.
    """
    resource = accelerator.ray_resource
    free = {node.name: node.resources.get(resource, 0) for node in nodes}
    capacities = sorted(f"{node.address} has {free[node.name]:g}" for node in nodes)
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


def connected_nodes() -> list[Node]:
    """Return the live nodes of the cluster that this process is connected with."""
    return [Node(node["NodeID"], node["NodeManagerAddress"], node["Resources"]) for node in living_nodes()]


def living_nodes() -> list[dict[str, Any]]:
    """Return Ray's descriptions of the cluster's live nodes."""
    return [node for node in ray.nodes() if node["Alive"]]
