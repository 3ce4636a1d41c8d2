"""A process group that spans two jobs: trainers that publish weights, and rollout processes that receive them.

Each job has a default group of its own, and torch.distributed makes groups only within one. So a link is built from a
store that the first process hosts. What is said beforehand goes over gloo, weights over the device's own transport.
Only broadcasts and sums are used, through the group's own methods, which know nothing of global ranks.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d

# Its inner functions are declared differently from release to release.
c10d: Any = distributed_c10d


class Link:
    """One process's end of a link.

    Attributes:
        rank: Place in the link.
        size: Processes of the link.
    """

    def __init__(self, rank: int, size: int, group: Any) -> None:
        """Use `join_link` or `world_link`.

        Args:
            rank: Place in the link.
            size: Processes of the link.
            group: Carries tensors of the host and of the device.
        """
        self.rank = rank
        self.size = size
        self._group = group

    def share(self, text: str) -> list[str]:
        """The texts of all processes in rank order; a collective. An empty text costs next to nothing."""
        content = text.encode()
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(content)
        self._group.allreduce([lengths], _sum()).wait()
        return [self._share_one(rank, content, int(length)) for rank, length in enumerate(lengths)]

    def broadcast(self, tensor: Tensor, root: int) -> None:
        """Give every process the values that `root` has.

        Args:
            tensor: Contiguous, of one size everywhere.
            root: Rank in the link.
        """
        # Bytes, because what an element means does not matter here, and every transport carries them.
        self._group.broadcast([tensor.view(torch.uint8)], _root(root)).wait()

    def close(self) -> None:
        """End the group, if it was made for the link."""
        made_here = self._group in c10d._world.pg_map and self._group is not dist.group.WORLD
        if made_here:
            dist.destroy_process_group(self._group)
        self._group = None

    def _share_one(self, rank: int, content: bytes, length: int) -> str:
        if not length:
            return ""
        buffer = bytearray(content if rank == self.rank else length)
        self._group.broadcast([torch.frombuffer(buffer, dtype=torch.uint8)], _root(rank)).wait()
        return buffer.decode()


def join_link(
    address: str, rank: int, size: int, *, backend: str, timeout_minutes: float, store: dist.TCPStore | None = None
) -> Link:
    """Join a link between jobs; returns once every process has come.

    Args:
        address: `host:port` of a store that serves this link alone.
        rank: Place in the link.
        size: Processes of the link.
        backend: As `Accelerator.backend`.
        timeout_minutes: How long joining, or a collective, may take.
        store: The store itself, where this process hosts it.
    """
    timeout = timedelta(minutes=timeout_minutes)
    if store is None:
        host, port = address.rsplit(":", 1)
        store = dist.TCPStore(host, int(port), is_master=False, timeout=timeout)
    if backend == "gloo":
        return Link(rank, size, dist.ProcessGroupGloo(dist.PrefixStore("link", store), rank, size, timeout))
    return Link(rank, size, device_group(store, rank, size, backend, timeout))


def world_link() -> Link:
    """A link among the processes of this job, over its default group."""
    return Link(dist.get_rank(), dist.get_world_size(), dist.group.WORLD)


def device_group(store: dist.Store, rank: int, size: int, backend: str, timeout: timedelta) -> dist.ProcessGroup:
    """A group of any backend beside the default group.

    torch.distributed has no public way to make one; `init_process_group` itself does it like this. Unverified on HCCL.
    """
    # The name must be new in this process and equal in all: no other group is made by this function.
    group, _ = c10d._new_process_group_helper(
        size, rank, [], dist.Backend(backend), dist.PrefixStore("link", store), group_name="link", timeout=timeout
    )
    # Ending a group looks its ranks up here.
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
