"""The devices of a replica's processes, which vLLM's engine beside the first of them uses together."""

from __future__ import annotations

import os

from mindspeed_dpo.device.environment_variables import ASCEND_DEVICES
from mindspeed_dpo.parallel.topology import ParallelRank
from mindspeed_dpo.parallel.weight_transfer_group import world_weight_group
from mindspeed_dpo.workers.setup.worker_context import WorkerContext

VISIBLE_DEVICES = {"cuda": "CUDA_VISIBLE_DEVICES", "npu": ASCEND_DEVICES}
"""Kind of device -> variable that lists those a process sees."""


def visible_devices(context: WorkerContext, place: ParallelRank) -> dict[str, str]:
    """Return the environment variable that shows an engine the devices of its replica; a collective of the pool.

    Empty on the host. Unverified on a device.

    Args:
        context: Context of this process.
        place: Ranks of the process in the rollout's layout, in which the processes of a replica are consecutive.
    """
    variable = VISIBLE_DEVICES.get(context.accelerator.kind)
    if variable is None:
        return {}
    everywhere, first = world_weight_group().share(_device(context, variable)), place.dp_rank * place.topology.tp
    return {variable: ",".join(everywhere[first : first + place.topology.tp])}


def own_device(context: WorkerContext) -> dict[str, str]:
    """Return the environment variable that shows an engine the device of this process only; empty on the host.

    Unverified on a device.
    """
    variable = VISIBLE_DEVICES.get(context.accelerator.kind)
    return {} if variable is None else {variable: _device(context, variable)}


def _device(context: WorkerContext, variable: str) -> str:
    """Return this process's device as the variable names it."""
    index = context.device.index or 0
    seen = [device for device in os.environ.get(variable, "").split(",") if device]
    return seen[index] if index < len(seen) else str(index)
