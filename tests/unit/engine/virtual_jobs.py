"""What the tests of virtual stages let a pool of processes do, with one model that is the same under every layout."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from mindspeed_dpo.batches import PackedBatch, PreferenceBatch
from mindspeed_dpo.config.settings.optimizer_and_schedule import OptimizerConfig
from mindspeed_dpo.config.settings.parallel_sizes_and_timeout import ParallelConfig
from mindspeed_dpo.data.batching.packing_and_label_shift import pack
from mindspeed_dpo.engine.train_engine import ScoringEngine, TrainingEngine
from mindspeed_dpo.models.layer_spec import Execution
from mindspeed_dpo.models.policy import PolicyModel
from mindspeed_dpo.models.virtual_stages import PipelineStage, join_virtual_stages
from mindspeed_dpo.parallel import process_groups
from mindspeed_dpo.parallel.random_seeds import seed_generators
from mindspeed_dpo.parallel.topology import Topology
from mindspeed_dpo.weights.families import rules_for
from mindspeed_dpo.weights.layer_placement import ParallelLayout
from mindspeed_dpo.weights.name_mapping import local_entries
from tests.support.closeness import STEADY
from tests.support.processes import leave_layout
from tests.unit.engine.engine_jobs import MODEL, loss_sum

LEARNING_RATE = 2e-3


@dataclass(frozen=True)
class Deep:
    """Eight layers over a pipeline.

    Attributes:
        pp: Stages.
        layers: Of a virtual stage; None is the plain pipeline.
        tied: Whether the output layer is the embedding.
        overlap: Whether replicas reduce gradients and gather weights while they compute, with a sharded optimizer.
    """

    pp: int = 1
    layers: int | None = None
    tied: bool = False
    overlap: bool = False


def gradients(deep: Deep, counts: Sequence[int]) -> list[tuple[dict[str, Tensor], list[float]]]:
    """For each number of micro-batches the gradient by global name, and the losses that were computed."""
    part, names = _build(deep)
    engine = TrainingEngine(part, OptimizerConfig(lr=0.0), ParallelConfig(pipeline_model_parallel_size=deep.pp))
    actual = []
    for count in counts:
        seen: list[float] = []

        def collecting(batch: PackedBatch, columns: Tensor, into: list[float] = seen) -> Tensor:
            value = loss_sum(batch, columns)
            into.append(float(value))
            return value

        engine.accumulate(micro_batches(count), collecting, num_pairs=count)
        actual.append(({names[name]: p.main_grad.clone() for name, p in part.named_parameters()}, seen))
    return actual


def scores(deep: Deep, counts: Sequence[int]) -> list[list[Tensor]]:
    """For each number of micro-batches what the head says of them; empty lists off the last stage."""
    engine = ScoringEngine(_build(deep)[0])
    return [engine.score(micro_batches(count)) for count in counts]


def norms(
    deep: Deep, steps: int, prepare: Callable[[torch.nn.Module], None] | None = None
) -> tuple[list[float], list[Tensor]]:
    """Gradient norms of steps that learn, each with another number of micro-batches, and scores of what was learned."""
    overlap = dict.fromkeys(("use_distributed_optimizer", "overlap_grad_reduce", "overlap_param_gather"), deep.overlap)
    part, _ = _build(deep)
    if prepare is not None:
        prepare(part)
    engine = TrainingEngine(part, OptimizerConfig(lr=0.0, adam_eps=STEADY["adam_eps"]), ParallelConfig(**overlap))
    replicas = dist.get_world_size() // deep.pp
    place = Topology(pp=deep.pp, dp=replicas).place(dist.get_rank())
    actual = []
    for step in range(steps):
        batches = micro_batches(2 * (1 + step))
        engine.accumulate(batches[place.dp_rank :: replicas], loss_sum, num_pairs=len(batches))
        actual.append(engine.step(LEARNING_RATE))
    return actual, engine.score(micro_batches(3))


def micro_batches(count: int) -> list[PackedBatch]:
    """One pair each, of lengths that all differ; their order is not that of their lengths."""
    numbers = torch.Generator().manual_seed(5)

    def tokens(length: int) -> list[int]:
        return torch.randint(0, MODEL.vocab_size, (length,), generator=numbers).tolist()

    lengths = [1 + (5 * number) % 11 for number in range(count)]
    return [pack(PreferenceBatch.from_lists([tokens(n)], [[tokens(2 + n % 3), tokens(1)]])) for n in lengths]


def _build(deep: Deep) -> tuple[PipelineStage, dict[str, str]]:
    """This process's part of the model, and the names in the full model of what it holds."""
    leave_layout()
    topology = Topology.of(dist.get_world_size(), 1, deep.pp)
    process_groups.split(topology)
    seed_generators(1)
    model = replace(MODEL, num_layers=8, untie_embeddings_and_output_weights=not deep.tied)
    layout = ParallelLayout(1, deep.pp, deep.layers)
    count, pp_rank = layout.num_chunks(8), topology.place(dist.get_rank()).pp_rank
    part = join_virtual_stages(
        [PolicyModel(model, Execution(topology, num_chunks=count), chunk=chunk) for chunk in range(count)]
    )
    entries = local_entries(rules_for(model), model, layout.rank_placement(8, 0, pp_rank))
    names = {name: entry.global_name for name, entry in entries}
    with torch.no_grad():
        for name, parameter in part.named_parameters():
            numbers = torch.Generator().manual_seed(zlib.crc32(names[name].encode()))
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=numbers) + (parameter.dim() == 1))
    return part, names
