"""Process groups of gloo that have the same ranks are one group.

megatron-core makes about forty groups per process, whatever the layout, and every gloo group costs three threads, of
which one wakes up a hundred times per second. On a device the groups stay apart, as each has a communicator and a
stream of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from megatron.core import parallel_state


@contextmanager
def one_group_per_set_of_ranks() -> Iterator[None]:
    """Let megatron-core reuse the groups that it creates in the block, if the default backend is gloo.

    All processes create the same groups in the same order, so all of them reuse the same ones. A group of all ranks is
    the default group.
    """
    if dist.get_backend() != dist.Backend.GLOO:
        yield
        return
    create = parallel_state.create_group
    groups: dict[tuple[int, ...], Any] = {tuple(range(dist.get_world_size())): dist.group.WORLD}

    def create_or_reuse(ranks: Sequence[int], **settings: Any) -> Any:
        key = tuple(ranks)
        if key not in groups:
            groups[key] = create(ranks, **settings)
        return groups[key]

    parallel_state.create_group = create_or_reuse
    try:
        yield
    finally:
        parallel_state.create_group = create
