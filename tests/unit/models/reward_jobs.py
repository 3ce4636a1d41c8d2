"""What the tests of the reward model let a pool of processes do: build stages, score a batch, differentiate scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from mindspeed_dpo.algorithms.ranking_objective import ResponseScores, RewardModelObjective
from mindspeed_dpo.batches import PackedBatch, PreferenceBatch
from mindspeed_dpo.config.settings.optimizer_and_schedule import OptimizerConfig
from mindspeed_dpo.config.settings.parallel_sizes_and_timeout import ParallelConfig
from mindspeed_dpo.data.batching.data_parallel_split import shard
from mindspeed_dpo.data.batching.packing_and_label_shift import pack
from mindspeed_dpo.device import find_accelerator
from mindspeed_dpo.engine.checkpoints import save_and_load
from mindspeed_dpo.engine.train_engine import ScoringEngine, TrainingEngine
from mindspeed_dpo.engine.weight_loading import load_into
from mindspeed_dpo.models.layer_spec import Execution
from mindspeed_dpo.models.reward import RewardModel, score_head
from mindspeed_dpo.models.virtual_stages import PipelineStage, join_virtual_stages
from mindspeed_dpo.parallel import process_groups
from mindspeed_dpo.parallel.random_seeds import seed_generators
from mindspeed_dpo.parallel.topology import ParallelRank, Topology
from mindspeed_dpo.weights import ParallelLayout, open_weights
from tests.support.jobs import rows_multiple
from tests.support.processes import leave_layout


@dataclass(frozen=True)
class Job:
    """A reward model under a layout, and a way to lay out the batch."""

    weights: Path
    tp: int = 1
    pp: int = 1
    cp: int = 1
    virtual: int | None = None
    """Layers of a virtual stage."""
    sequence_parallel: bool = False
    share_prompt: bool = True
    no_post_layer_norm: bool = False
    dtype: torch.dtype = torch.float32


def scores(job: Job, batch: PreferenceBatch) -> Tensor | None:
    """Scores [P, K], one micro-batch per prompt, from the process that speaks."""
    model, place = _build(job)
    multiple_of = rows_multiple(place.topology, job.sequence_parallel)
    parts = [batch.select([p]) for p in range(batch.num_prompts)]
    packed = [
        pack(part, share_prompt=job.share_prompt, multiple_of=multiple_of).for_context_rank(place.cp_rank, job.cp)
        for part in parts
    ]
    actual = ScoringEngine(model).score(packed)
    return torch.cat(actual) if place.is_output else None


def parameter_marks(job: Job) -> dict[str, tuple[tuple[int, ...], torch.dtype, int | None]]:
    """Shape, type and the dim along which it is split, of every parameter of this stage."""
    model, _ = _build(job)
    return {
        name: (
            tuple(parameter.shape),
            parameter.dtype,
            parameter.partition_dim if getattr(parameter, "tensor_model_parallel", False) else None,
        )
        for name, parameter in model.named_parameters()
    }


def head_gradient(job: Job, batch: PreferenceBatch) -> tuple[Tensor, Tensor]:
    """Gradient of the summed scores with respect to the full head, and to the final norm."""
    model, _ = _build(job)
    assert isinstance(model, RewardModel)
    model(pack(batch)).sum().backward()
    parts = [torch.empty_like(model.rm_head.weight) for _ in range(job.tp)]
    dist.all_gather(parts, model.rm_head.weight.grad)
    return torch.cat(parts, dim=1), model.decoder.final_layernorm.weight.grad


def new_head(job: Job) -> Tensor:
    """This rank's shard of the weight of a new head."""
    model, _ = _build(job)
    assert isinstance(model, RewardModel)
    model.rm_head.initialise(0.02, seed=7)
    return model.rm_head.weight.detach()


def gradient(job: Job, batch: PreferenceBatch, folder: Path) -> float:
    """Write the gradient of the mean loss of rankings as a checkpoint, as if it were the weights; gives its norm."""
    model, place = _build(job)
    for head in filter(None, [score_head(model)]):
        head.bias.requires_grad_(False)
    parallel = ParallelConfig(
        tensor_model_parallel_size=job.tp,
        pipeline_model_parallel_size=job.pp,
        context_parallel_size=job.cp,
        sequence_parallel=job.sequence_parallel,
    )
    engine = TrainingEngine(model, OptimizerConfig(lr=0.0, clip_grad=1e9), parallel)
    multiple_of = rows_multiple(place.topology, job.sequence_parallel)
    parts = [batch.select([p]) for p in shard(batch.num_prompts, place.dp_rank, place.topology.dp)]
    packed = [
        pack(part, share_prompt=job.share_prompt, multiple_of=multiple_of).for_context_rank(place.cp_rank, job.cp)
        for part in parts
    ]
    objective = RewardModelObjective()

    def loss_sum(micro_batch: PackedBatch, scores: Tensor) -> Tensor:
        present = micro_batch.response_lengths > 0
        return objective(ResponseScores(scores.double(), micro_batch.weights, present)).losses.sum()

    engine.accumulate(packed, loss_sum, num_pairs=batch.num_prompts)
    norm = engine.step(0.0)
    with torch.no_grad():
        for parameter in engine.model.parameters():
            if parameter.requires_grad:
                parameter.copy_(parameter.main_grad)
    metadata = {"iteration": 1, "model": open_weights(job.weights).model_config().as_dict()}
    what = (folder, engine, find_accelerator("cpu"), save_and_load.CheckpointParts(False, False), metadata)
    save_and_load.complete(save_and_load.start_save(*what))
    return norm


def _build(job: Job) -> tuple[PipelineStage, ParallelRank]:
    leave_layout()
    topology = Topology.of(dist.get_world_size(), job.tp, job.pp, job.cp)
    process_groups.split(topology)
    seed_generators(1)
    place = topology.place(dist.get_rank())
    source = open_weights(job.weights)
    source.final_norm = not job.no_post_layer_norm
    config = source.model_config()
    layout = ParallelLayout(topology.tp, topology.pp, job.virtual)
    count, bare = layout.num_chunks(config.num_layers), job.no_post_layer_norm
    execution = Execution(topology, dtype=job.dtype, num_chunks=count, sequence_parallel=job.sequence_parallel)
    model = join_virtual_stages(
        [RewardModel(config, execution, chunk=one, no_post_layer_norm=bare) for one in range(count)]
    )
    placement = layout.rank_placement(config.num_layers, place.tp_rank, place.pp_rank)
    assert not load_into(model, source.local_tensors(config, placement), str(job.weights))
    return model, place
