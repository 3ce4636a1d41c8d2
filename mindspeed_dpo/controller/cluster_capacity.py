"""The check that the nodes of a cluster have enough devices for the pools of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from mindspeed_dpo.controller.ray_connection import ClusterError
from mindspeed_dpo.device import Accelerator


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
