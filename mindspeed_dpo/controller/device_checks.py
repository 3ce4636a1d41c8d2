"""Checks that the devices of a run exist, without starting Ray or joining a cluster."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import ray
from ray._private.accelerators import get_accelerator_manager_for_resource
from ray._raylet import GcsClient  # type: ignore[attr-defined]

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.controller.authentication import token_of
from mindspeed_dpo.controller.cluster_capacity import Node, check_capacity
from mindspeed_dpo.controller.cluster_choice import AUTOMATIC, LOCAL, NOT_USED, declared_cpus, requested_address
from mindspeed_dpo.controller.host_capacity import check_host
from mindspeed_dpo.controller.local_raylets import LOOPBACK, Raylet, raylet_started_here
from mindspeed_dpo.controller.ray_connection import ClusterError, check_folder_root, raylet_at, refusal
from mindspeed_dpo.device import Accelerator, find_accelerator

logger = logging.getLogger(__name__)

REPLY_LIMIT_S = 10.0
"""Limit for the reply of a cluster that accepts connections, in seconds."""
_ALIVE = 0


def check_devices(run: RunConfig) -> str:
    """Check, as a run does before it takes devices, that the cluster it would use has enough of them.

    Returns:
        Where the run would be: the address of the cluster, or that it starts its own.

    Raises:
        ClusterError: No cluster responds at the configured address, or there are too few devices.
        ValueError: The kind of device is unknown.
    """
    accelerator = find_accelerator(run.loop.device).placed_by(run.loop.ray_resource)
    address = requested_address(run.loop.ray_address)
    if address not in (LOCAL, AUTOMATIC):
        check_capacity(accelerator, run.pools, nodes_of(raylet_at(address)))
        return f"in the Ray cluster at {address}"
    raylet = raylet_started_here() if address == AUTOMATIC else None
    if raylet is not None:
        try:
            check_capacity(accelerator, run.pools, nodes_of(raylet))
        except ClusterError as error:
            logger.info(NOT_USED, raylet.address, error)
        else:
            return f"in the Ray cluster at {raylet.address}, started with `ray start` on this machine"
    check_this_machine(run, accelerator)
    return "in a Ray cluster of its own on this machine"


def check_this_machine(run: RunConfig, accelerator: Accelerator) -> None:
    """Check that a cluster of its own would have the devices, and on the CPU the cores and the memory, of a run.

    Raises:
        ClusterError: It would not, or its folder cannot be created.
    """
    if accelerator.ray_resource == "CPU":
        check_host(run)
    check_folder_root()
    check_capacity(accelerator, run.pools, [this_machine(accelerator.ray_resource, run.pools)])


def nodes_of(raylet: Raylet) -> list[Node]:
    """Return the live nodes of a cluster that this machine is part of, without joining it.

    Raises:
        ClusterError: The cluster does not reply, or does not accept this user's token.
    """
    with token_of(raylet.environment):
        try:
            nodes = GcsClient(address=raylet.address).get_all_node_info(timeout=REPLY_LIMIT_S)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise ClusterError(refusal(raylet, error)) from error
    return [
        Node(node.node_id.hex(), node.node_manager_address, dict(node.resources_total))
        for node in nodes.values()
        if node.state == _ALIVE
    ]


def this_machine(resource: str, pools: Mapping[str, Sequence[int]]) -> Node:
    """Return this machine as the node of a cluster that a run starts for itself, with the units that Ray counts."""
    if resource == "CPU":
        return Node("", LOOPBACK, {resource: float(declared_cpus(pools))})
    manager = get_accelerator_manager_for_resource(resource)
    assert manager is not None, f"Ray does not know {resource}"
    # As Ray does when it starts: it looks for device files and drivers, and occupies no device.
    count, visible = manager.get_current_node_num_accelerators(), manager.get_current_process_visible_accelerator_ids()
    return Node("", LOOPBACK, {resource: float(count if visible is None else min(count, len(visible)))})
