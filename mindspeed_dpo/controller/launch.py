"""Starts the worker groups of a run on its cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.controller.cluster_choice import cluster
from mindspeed_dpo.controller.device_checks import check_this_machine
from mindspeed_dpo.controller.placement_groups import Pool
from mindspeed_dpo.controller.worker_group import WorkerGroup
from mindspeed_dpo.device import find_accelerator
from mindspeed_dpo.observability.live_status import live_status


@contextmanager
def worker_groups(config: RunConfig) -> Iterator[dict[str, WorkerGroup]]:
    """Start a run's processes on the cluster it names; stop them and release their devices at the end.

    Yields:
        Worker groups by pool name. They monitor each other.

    Raises:
        ClusterError: The cluster cannot be reached, or has too few devices.
        WorkerFailure: A process failed.
    """
    accelerator = find_accelerator(config.loop.device).placed_by(config.loop.ray_resource)
    groups: list[WorkerGroup] = []
    with ExitStack() as stack:
        check = partial(check_this_machine, config, accelerator)
        with live_status.phase("starting Ray"):
            stack.enter_context(cluster(config.loop.ray_address, accelerator, config.pools, check))
        by_pool = {}
        for name, sizes in config.pools.items():
            pool = Pool(name, sizes, accelerator)
            stack.callback(pool.release)
            by_pool[name] = WorkerGroup(config, pool, groups)
            stack.callback(by_pool[name].stop)
        yield by_pool
