"""The choice of the Ray cluster of a run: the one that is named, one that this user began here, or one of its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from mindspeed_dpo.controller.cluster_capacity import check_capacity, connected_nodes
from mindspeed_dpo.controller.local_raylets import Raylet, raylet_started_here
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
NOT_USED = "the Ray cluster at %s, started with `ray start`, is not used: %s"


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
        elif address == LOCAL or not _joined(raylet_started_here(), accelerator, pools, stack):
            before_start()
            logger.info("starting a Ray cluster for this run alone")
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
    """Join a cluster that was started here if the pools fit, until the stack closes, and say so."""
    if raylet is None:
        return False
    with ExitStack() as attempt:
        try:
            attempt.enter_context(join_raylet(raylet))
            check_capacity(accelerator, pools, connected_nodes())
        except ClusterError as error:
            logger.info(NOT_USED, raylet.address, error)
            return False
        logger.info("using the Ray cluster at %s, started with `ray start` on this machine", raylet.address)
        stack.push(attempt.pop_all())
    return True
