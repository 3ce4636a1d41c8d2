"""A process group across two jobs: the trainer, which sends weights, and the rollout, which receives them.

Each job has its own default group, and torch.distributed creates groups only within one job. A weight group is
therefore built on a store that its first process serves. Metadata is exchanged over gloo, weights over the device's
backend. Only broadcasts and sums are used, through methods of the group object, which do not involve global ranks.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d

from mindspeed_dpo.parallel.rendezvous_store import reach_store

# The types of its private functions differ between releases of torch.
c10d: Any = distributed_c10d


class WeightGroup:
    """One process's membership in a weight group.

    Attributes:
        rank: Rank in the group.
        size: Number of processes.
    """

    def __init__(self, rank: int, size: int, group: Any) -> None:
        """Use `join_weight_group` or `world_weight_group` instead.

        Args:
            rank: Rank in the group.
            size: Number of processes.
            group: Process group that carries tensors of the host and of the device.
        """
        self.rank = rank
        self.size = size
        self._group = group

    def share(self, text: str) -> list[str]:
        """Gather a text from every process, in rank order; a collective. An empty text is not sent."""
        content = text.encode()
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(content)
        self._group.allreduce([lengths], _sum()).wait()
        return [self._share_one(rank, content, int(length)) for rank, length in enumerate(lengths)]

    def broadcast(self, tensor: Tensor, root: int) -> None:
        """Copy the values of rank `root` to every process, in place.

        Args:
            tensor: Contiguous values of any shape and dtype, with the same number of bytes on all ranks.
            root: Rank in the group.
        """
        # Sent as bytes, which every backend supports.
        self._group.broadcast([tensor.view(torch.uint8)], _root(root)).wait()

    def close(self) -> None:
        """Destroy the process group unless it is the default group."""
        is_own_group = self._group in c10d._world.pg_map and self._group is not dist.group.WORLD
        if is_own_group:
            dist.destroy_process_group(self._group)
        self._group = None

    def _share_one(self, rank: int, content: bytes, length: int) -> str:
        if not length:
            return ""
        buffer = bytearray(content if rank == self.rank else length)
        self._group.broadcast([torch.frombuffer(buffer, dtype=torch.uint8)], _root(rank)).wait()
        return buffer.decode()


def join_weight_group(
    address: str,
    rank: int,
    size: int,
    *,
    backend: str,
    timeout_minutes: float,
    store: dist.Store | None = None,
    name: str = "link",
) -> WeightGroup:
    """Join a weight group between jobs; returns once every process has joined.

    Args:
        address: Address of a store that serves this group only.
        rank: Rank in the group.
        size: Number of processes.
        backend: Backend of torch.distributed, as in `Accelerator.backend`.
        timeout_minutes: Limit for joining and for a collective.
        store: The store itself if this process serves it.
        name: Name of the group, which no other of this process has.
    """
    timeout = timedelta(minutes=timeout_minutes)
    store = reach_store(address, timeout) if store is None else store
    if backend == "gloo":
        return WeightGroup(rank, size, dist.ProcessGroupGloo(dist.PrefixStore("link", store), rank, size, timeout))
    return WeightGroup(rank, size, device_group(store, rank, size, backend, timeout, name))


def world_weight_group() -> WeightGroup:
    """Return a weight group of the processes of this job, on its default process group."""
    return WeightGroup(dist.get_rank(), dist.get_world_size(), dist.group.WORLD)


def device_group(
    store: dist.Store, rank: int, size: int, backend: str, timeout: timedelta, name: str = "link"
) -> dist.ProcessGroup:
    """Create a process group of any backend beside the default group.

    torch.distributed has no public function for this; `init_process_group` uses the same helper. Unverified on HCCL.
    """
    # The name must be unused in this process and equal in all.
    group, _ = c10d._new_process_group_helper(
        size, rank, [], dist.Backend(backend), dist.PrefixStore("link", store), group_name=name, timeout=timeout
    )
    # `destroy_process_group` looks the ranks up here.
    c10d._world.pg_group_ranks[group] = {index: index for index in range(size)}
    return group


def _sum() -> dist.AllreduceOptions:
    options: Any = dist.AllreduceOptions()
    options.reduceOp = dist.ReduceOp.SUM
    return options


def _root(rank: int) -> dist.BroadcastOptions:
    options = dist.BroadcastOptions()
    options.rootRank = rank
    return options
