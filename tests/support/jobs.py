"""What tests let a pool of processes do with a model: build it from a folder, score or differentiate a fixed batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from mindspeed_dpo.algorithms.objective import PairValues, PreferenceObjective
from mindspeed_dpo.batches import PackedBatch, PreferenceBatch
from mindspeed_dpo.batches.logprob_columns import LOGP
from mindspeed_dpo.config.settings.optimizer_and_schedule import OptimizerConfig
from mindspeed_dpo.config.settings.parallel_sizes_and_timeout import ParallelConfig
from mindspeed_dpo.config.settings.router_training import RouterConfig
from mindspeed_dpo.data.batching.data_parallel_split import shard
from mindspeed_dpo.data.batching.packing_and_label_shift import pack
from mindspeed_dpo.device import find_accelerator
from mindspeed_dpo.engine.checkpoints import save_and_load
from mindspeed_dpo.engine.train_engine import ScoringEngine, TrainingEngine
from mindspeed_dpo.engine.weight_loading import load_into
from mindspeed_dpo.models.layer_spec import Execution
from mindspeed_dpo.models.lora import add_adapters, load_adapters
from mindspeed_dpo.models.moe.router_training import train_routers
from mindspeed_dpo.models.policy import PolicyModel
from mindspeed_dpo.models.virtual_stages import PipelineStage, join_virtual_stages
from mindspeed_dpo.parallel import process_groups
from mindspeed_dpo.parallel.random_seeds import seed_generators
from mindspeed_dpo.parallel.topology import ParallelRank, Topology
from mindspeed_dpo.weights import ParallelLayout, open_adapter, open_weights
from mindspeed_dpo.weights.lora import adapter_description
from tests.support.processes import leave_layout


@dataclass(frozen=True)
class Job:
    """A model under a layout and a way to cut the batch."""

    weights: Path
    tp: int = 1
    pp: int = 1
    cp: int = 1
    ep: int = 1
    virtual: int | None = None
    """Layers of a virtual stage."""
    sequence_parallel: bool = False
    share_prompt: bool = True
    micro_batch_size: int = 2
    recompute: str | None = None
    multiple_of: int = 1
    adapter: Path | None = None
    """A folder of PEFT whose adapters lie over the weights."""
    options: dict[str, bool] = field(default_factory=dict)
    """Further keys of `ParallelConfig`."""
    router: RouterConfig = field(default_factory=RouterConfig)


def logits_job(job: Job, batch: PreferenceBatch) -> Tensor | None:
    """Logits [T, V] of the packed batch from the last stage's first rank, over the full vocabulary."""
    model, place = _build(job)
    packed = _packed(job, batch, place)
    assert isinstance(model, PolicyModel)
    shard_of_logits = logits_shard(model, packed)
    parts: list[Tensor | None] = [None] * job.tp
    dist.all_gather_object(parts, shard_of_logits)
    return torch.cat([part for part in parts if part is not None], dim=-1) if place.is_output else None


def logits_shard(model: PolicyModel, packed: PackedBatch) -> Tensor:
    """This rank's shard of the logits, [T / cp, V / tp] without padding; last stage only, without gradient."""
    with torch.no_grad():
        hidden, tied = model._gather(model._decode(packed)), model._tied_weight()
        weight = model.output_layer.weight if tied is None else tied
        return (hidden @ weight.t())[:, : model.shard.num_real]


def scores_job(job: Job, batch: PreferenceBatch) -> Tensor | None:
    """Log-probabilities [P, 2] of this replica's pairs."""
    model, place = _build(job)
    batches = _micro_batches(job, batch, place)
    outputs = ScoringEngine(model).score(batches)
    scored = [b.sum_by_response(o[:, LOGP]) for b, o in zip(batches, outputs, strict=False)]
    return torch.cat(scored) if place.is_output else None


def gradient_job(job: Job, batch: PreferenceBatch, folder: Path) -> float:
    """Write the gradient of the mean sigmoid loss as a checkpoint, as if it were the weights; gives its norm."""
    model, place = _build(job)
    parallel = ParallelConfig(
        tensor_model_parallel_size=job.tp,
        pipeline_model_parallel_size=job.pp,
        context_parallel_size=job.cp,
        sequence_parallel=job.sequence_parallel,
        **job.options,
    )
    train_routers(model, open_weights(job.weights).model_config(), job.router)
    engine = TrainingEngine(model, OptimizerConfig(lr=0.0, clip_grad=1e9), parallel)
    objective = PreferenceObjective()

    def loss_sum(packed: PackedBatch, columns: Tensor) -> Tensor:
        logps = packed.sum_by_response(columns[:, LOGP])
        pairs = PairValues(logps, packed.response_lengths, packed.ref_logps, packed.weights)
        return objective(pairs).losses.sum()

    engine.accumulate(_micro_batches(job, batch, place), loss_sum, num_pairs=batch.num_prompts)
    norm = engine.step(0.0)
    with torch.no_grad():
        for parameter in engine.model.parameters():
            if parameter.requires_grad:
                parameter.copy_(parameter.main_grad)
    source = open_weights(job.weights)
    metadata = {"iteration": 1, "model": source.model_config().as_dict()}
    if job.adapter is not None:
        metadata["adapters"] = adapter_description(open_adapter(job.adapter).settings, source)
    what = (folder, engine, find_accelerator("cpu"), save_and_load.CheckpointParts(False, False), metadata)
    save_and_load.complete(save_and_load.start_save(*what))
    return norm


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder of weights under their Hugging Face names."""
    source = open_weights(folder)
    return dict(source.hf_tensors(source.model_config()))


def rows_multiple(topology: Topology, sequence_parallel: bool) -> int:
    """What divides a packed row: the ranks that share it, context-parallel and perhaps tensor ranks."""
    return topology.cp * (topology.tp if sequence_parallel else 1)


def _build(job: Job) -> tuple[PipelineStage, ParallelRank]:
    leave_layout()
    topology = Topology.of(dist.get_world_size(), job.tp, job.pp, job.cp, job.ep)
    process_groups.split(topology)
    seed_generators(1)
    place = topology.place(dist.get_rank())
    source = open_weights(job.weights)
    config = source.model_config()
    recompute = {"recompute_granularity": job.recompute}
    if job.recompute == "full":
        recompute |= {"recompute_method": "uniform", "recompute_num_layers": 1}
    layout = ParallelLayout(topology.tp, topology.pp, job.virtual, ep=job.ep)
    count = layout.num_chunks(config.num_layers)
    execution = Execution(topology, num_chunks=count, sequence_parallel=job.sequence_parallel, **recompute)
    model = join_virtual_stages([PolicyModel(config, execution, chunk=chunk) for chunk in range(count)])
    placement = layout.rank_placement(config.num_layers, place.tp_rank, place.pp_rank, place.ep_rank)
    assert not load_into(model, source.local_tensors(config, placement), str(job.weights))
    if job.adapter is not None:
        adapter = open_adapter(job.adapter)
        add_adapters(model, config, placement, adapter.settings, seed=1)
        load_adapters(model, adapter)
    return model, place


def _micro_batches(job: Job, batch: PreferenceBatch, place: ParallelRank) -> list[PackedBatch]:
    mine = list(shard(batch.num_prompts, place.dp_rank, place.topology.dp))
    parts = [mine[start : start + job.micro_batch_size] for start in range(0, len(mine), job.micro_batch_size)]
    return [_packed(job, batch.select(part), place) for part in parts]


def _packed(job: Job, batch: PreferenceBatch, place: ParallelRank) -> PackedBatch:
    multiple = rows_multiple(place.topology, job.sequence_parallel) * job.multiple_of
    return pack(batch, share_prompt=job.share_prompt, multiple_of=multiple).for_context_rank(place.cp_rank, job.cp)
