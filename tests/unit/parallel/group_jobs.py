"""What the tests of process groups let a pool of processes do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel

from mindspeed_dpo.parallel import process_groups
from mindspeed_dpo.parallel.random_seeds import seed_generators
from mindspeed_dpo.parallel.rank_sums import sum_over_ranks
from mindspeed_dpo.parallel.rendezvous_store import host_store
from mindspeed_dpo.parallel.topology import Topology
from tests.support.processes import leave_layout


@dataclass(frozen=True)
class Seen:
    """megatron-core's own word for where a process stands, beside ours, and what its generators draw."""

    theirs: tuple[int, ...]
    ours: tuple[int, ...]
    sizes: tuple[int, ...]
    replica_sum: float
    copies: int
    groups: tuple[tuple[int, ...], ...]
    drawn: tuple[float, ...]
    drawn_for_tensor_parallel: tuple[float, ...]


def stand(topology: Topology, seed: int) -> Seen:
    """Split the processes and look around."""
    leave_layout()
    process_groups.split(topology)
    seed_generators(seed)
    place = topology.place(dist.get_rank())
    ranks = torch.tensor(float(dist.get_rank()))
    dist.all_reduce(ranks, dist.ReduceOp.SUM, parallel_state.get_data_parallel_group())
    drawn = torch.rand(3)
    with tensor_parallel.get_cuda_rng_tracker().fork():
        parted = torch.rand(3)
    return Seen(
        theirs=(
            parallel_state.get_tensor_model_parallel_rank(),
            parallel_state.get_data_parallel_rank(),
            parallel_state.get_pipeline_model_parallel_rank(),
            parallel_state.get_context_parallel_rank(),
        ),
        ours=(place.tp_rank, place.dp_rank, place.pp_rank, place.cp_rank),
        sizes=(
            parallel_state.get_tensor_model_parallel_world_size(),
            parallel_state.get_data_parallel_world_size(),
            parallel_state.get_pipeline_model_parallel_world_size(),
            parallel_state.get_context_parallel_world_size(),
        ),
        replica_sum=float(ranks),
        copies=parallel_state.get_data_parallel_world_size(with_context_parallel=True),
        groups=tuple(
            sorted(tuple(dist.get_process_group_ranks(group)) for group in dist.distributed_c10d._world.pg_map)
        ),
        drawn=tuple(drawn.tolist()),
        drawn_for_tensor_parallel=tuple(parted.tolist()),
    )


def join_and_leave() -> None:
    """Join a job of one, split it, leave it, and join again: nothing may be left behind."""
    for _ in range(2):
        hosted = host_store()
        process_groups.join(0, 1, hosted.address, "gloo", timeout_minutes=1, store=hosted.store)
        process_groups.split(Topology(), timeout_minutes=1)
        ready = dist.is_initialized() and parallel_state.is_initialized()
        process_groups.leave()
        assert ready and not dist.is_initialized() and not parallel_state.is_initialized()
    process_groups.leave()


if __name__ == "__main__":
    join_and_leave()


def summed_over_ranks(values: list[list[float]], dtype: torch.dtype) -> torch.Tensor:
    """The sum of what each rank has, [n]; rank r has `values[r]`."""
    return sum_over_ranks(torch.tensor(values[dist.get_rank()], dtype=dtype))
