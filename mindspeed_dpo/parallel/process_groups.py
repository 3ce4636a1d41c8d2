"""Lifetime of process groups: torch.distributed and megatron-core's parallel state."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from mindspeed_dpo.parallel.rendezvous_store import reach_store
from mindspeed_dpo.parallel.shared_gloo_groups import one_group_per_set_of_ranks
from mindspeed_dpo.parallel.topology import Topology


def join(
    rank: int, world_size: int, master: str, backend: str, timeout_minutes: float, store: dist.Store | None = None
) -> None:
    """Join the job's default process group.

    Args:
        rank: Global rank of this process.
        world_size: Number of processes.
        master: Address of the store that rank 0 serves.
        backend: Backend of torch.distributed, as in `Accelerator.backend`.
        timeout_minutes: Limit for a collective.
        store: The store itself if this process serves it already.
    """
    timeout = timedelta(minutes=timeout_minutes)
    store = reach_store(master, timeout) if store is None else store
    dist.init_process_group(
        backend, store=dist.PrefixStore("job", store), rank=rank, world_size=world_size, timeout=timeout
    )


def split(topology: Topology, timeout_minutes: float = 45) -> None:
    """Create the tensor-, context-, expert-, pipeline- and data-parallel groups; a collective."""
    with one_group_per_set_of_ranks():
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=topology.tp,
            pipeline_model_parallel_size=topology.pp,
            context_parallel_size=topology.cp,
            expert_model_parallel_size=topology.ep,
            # Experts are never divided, so all ranks of a stage that hold the same ones are copies.
            expert_tensor_parallel_size=1,
            distributed_timeout_minutes=int(timeout_minutes),
            # Further copies for host tensors; every group already takes those.
            create_gloo_process_groups=False,
        )


def all_processes_agree(flag: bool, device: torch.device) -> bool:
    """Return whether a flag is set on every process of the job; a collective."""
    count = torch.tensor([int(flag)], dtype=torch.int32, device=device)
    dist.all_reduce(count, dist.ReduceOp.SUM)
    return int(count) == dist.get_world_size()


def leave() -> None:
    """Destroy the groups that `split` and `join` created."""
    parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()
