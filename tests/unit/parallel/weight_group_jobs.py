"""A process that stands at one end of a link, and says what it sees: `python -m … address rank size what`."""

from __future__ import annotations

import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from mindspeed_dpo.parallel.rendezvous_store import host_store
from mindspeed_dpo.parallel.weight_transfer_group import WeightGroup, device_group, join_weight_group


def talk(link: WeightGroup) -> None:
    """Share texts, then broadcast from the last rank."""
    texts = link.share("größer" if link.rank == 1 else "")
    tensor = torch.arange(5, dtype=torch.bfloat16) * link.rank
    link.broadcast(tensor, link.size - 1)
    sys.stdout.write(f"{texts} {tensor.tolist()}\n")


def main(port: int, rank: int, size: int, what: str) -> None:
    """Play a part."""
    # Each process is a job of its own, so that none can be mistaken for another in a default group.
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    store = host_store(port).store if rank == 0 else None
    link = join_weight_group(f"127.0.0.1:{port}", rank, size, backend="gloo", timeout_minutes=0.5, store=store)
    if what == "one dies" and rank == 1:
        os._exit(0)
    talk(link)
    link.close()
    reached = dist.PrefixStore("second", store or dist.TCPStore("127.0.0.1", port, is_master=False))
    for _ in range(2):
        link = WeightGroup(rank, size, device_group(reached, rank, size, "cpu:gloo", timedelta(minutes=0.5)))
        talk(link)
        link.close()
        reached = dist.PrefixStore("third", reached)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
