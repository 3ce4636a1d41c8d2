"""A worker process as a Ray actor, with the address and the device that Ray gave it."""

from __future__ import annotations

import os

import ray

from mindspeed_dpo.device.environment_variables import RAY_KEEPS_VISIBLE, set_default
from mindspeed_dpo.parallel.rendezvous_store import is_on_this_machine
from mindspeed_dpo.workers.worker_process import WorkerProcess


class RayWorker(WorkerProcess):
    """A worker process as a Ray actor, with the address and device that Ray gave it."""

    def node_address(self) -> str:
        """Return the address under which other nodes reach this one."""
        return str(ray.util.get_node_ip_address())

    def local_rank(self, resource: str) -> int:
        """Return the index of this process's device among those visible to it.

        Ray shows a process its own devices only, so that is 0, unless Ray is configured to leave visibility alone.
        """
        ids = ray.get_runtime_context().get_accelerator_ids().get(resource, [])
        shows_all = os.environ.get(RAY_KEEPS_VISIBLE.get(resource, ""), "").lower() in ("1", "true")
        return int(ids[0]) if ids and shows_all else 0

    def join_here(self, rank: int, world_size: int, master: str, resource: str) -> None:
        """Join with the local rank of this process; `WorkerProcess.join` has the other arguments."""
        if is_on_this_machine(master):
            # gloo would listen at the address that the host name resolves to.
            set_default("GLOO_SOCKET_IFNAME", "lo")
        self.join(rank, world_size, master, self.local_rank(resource))
