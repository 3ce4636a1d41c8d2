"""Device pools as Ray placement groups: each entry of a pool's list is a number of processes on one node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from mindspeed_dpo.controller.ray_connection import ClusterError
from mindspeed_dpo.device import Accelerator
from mindspeed_dpo.processes.driver_link import driver_link

PLACEMENT_TIMEOUT_S = 60


class Pool:
    """Devices reserved for one group of processes."""

    def __init__(self, name: str, sizes: Sequence[int], accelerator: Accelerator) -> None:
        """Reserve the devices.

        Args:
            name: Name of the pool, for messages.
            sizes: Processes of each entry; an entry is placed on one node.
            accelerator: Kind of device, which determines the Ray resource.

        Raises:
            ClusterError: The cluster did not reserve them in time.
        """
        self.name = name
        self._accelerator = accelerator
        self._groups = [self._reserve(size) for size in sizes]
        self._sizes = tuple(sizes)

    @property
    def size(self) -> int:
        """Number of processes."""
        return sum(self._sizes)

    @property
    def resource(self) -> str:
        """The Ray resource of which each process takes one."""
        return self._accelerator.ray_resource

    def options(self) -> list[dict[str, Any]]:
        """Return the Ray actor options of each process, in rank order."""
        return [
            {
                **self._resources(),
                "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
            }
            for group, size in zip(self._groups, self._sizes, strict=True)
            for index in range(size)
        ]

    def release(self) -> None:
        """Release the devices."""
        if not driver_link.loss():
            for group in self._groups:
                remove_placement_group(group)

    def _resources(self) -> dict[str, Any]:
        name = self._accelerator.ray_resource
        if self._accelerator.is_custom_resource:
            return {"num_cpus": 1, "resources": {name: 1}}
        return {"num_cpus": 1, "num_gpus": 1} if name == "GPU" else {"num_cpus": 1}

    def _reserve(self, size: int) -> PlacementGroup:
        bundle = {"CPU": 1, self._accelerator.ray_resource: 1}
        group = placement_group([bundle] * size, strategy="STRICT_PACK")
        try:
            ray.get(group.ready(), timeout=PLACEMENT_TIMEOUT_S)
        except ray.exceptions.GetTimeoutError as error:
            remove_placement_group(group)
            raise ClusterError(
                f"the cluster did not reserve {size} processes on one node for pool {self.name} within "
                f"{PLACEMENT_TIMEOUT_S} s; another run may use them: see `ray status`"
            ) from error
        except ray.exceptions.RayError as error:
            raise ClusterError(
                f"the reservation of {size} processes for pool {self.name} ended before they started "
                f"({type(error).__name__}): a program on the cluster removed it, or its node left; start the run again"
            ) from error
        return group
