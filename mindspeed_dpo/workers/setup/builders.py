"""From a role's settings to what it works with: process groups, dataset, model with its weights."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from mindspeed_dpo.config.estimates.memory import multiply_adds
from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.data.batching.planning import Limit
from mindspeed_dpo.device import Accelerator
from mindspeed_dpo.device.ops.label_logps import has_kernel
from mindspeed_dpo.device.probe import head_problem, prefix_problem
from mindspeed_dpo.engine.weights import load_into
from mindspeed_dpo.models.chunks import ModelPart, part_of
from mindspeed_dpo.models.lora import add_adapters, load_adapters
from mindspeed_dpo.models.policy import PolicyModel
from mindspeed_dpo.models.reward import RewardModel
from mindspeed_dpo.models.spec import Execution
from mindspeed_dpo.models.vocab_shard import VocabShard
from mindspeed_dpo.parallel import groups
from mindspeed_dpo.parallel.context import key_heads
from mindspeed_dpo.parallel.topology import Place
from mindspeed_dpo.weights.placement import Layout, Placement
from mindspeed_dpo.workers.batching.batch_builder import Feed, PairSource
from mindspeed_dpo.workers.setup.sources import open_initial_adapter, open_initial_weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seat:
    """Where a worker sits: the run, its coordinates, its device."""

    run: RunConfig
    place: Place
    accelerator: Accelerator

    @property
    def device(self) -> torch.device:
        """This process's device."""
        return self.accelerator.device()


def build_model(seat: Seat, role: RoleConfig, *, statistics: bool = False) -> ModelPart:
    """The role's model with its weights: random where that is asked for, else those of `load`."""
    # Each model starts from the same seed, so that a random policy and its random reference are one.
    groups.seed(seat.run.loop.seed)
    runs = execution(seat, role)
    chunks = [PolicyModel(role.model, runs, statistics, chunk=chunk) for chunk in range(runs.chunks)]
    fused = fuses_head(seat, role, chunks[0].shard)
    for chunk in chunks:
        chunk.fused_head = fused
    return _loaded(part_of(chunks), seat, role)


def build_trained_model(seat: Seat, role: RoleConfig, *, statistics: bool = False) -> ModelPart:
    """As `build_model`, with the role's adapters where it trains those."""
    model = build_model(seat, role, statistics=statistics)
    if role.adapters.is_on:
        add_adapters(model, role.model, placement_of(role, seat.place), role.adapters, seat.run.loop.seed)
        adapter = open_initial_adapter(role)
        if adapter is not None:
            load_adapters(model, adapter)
    return model


def build_reward_model(seat: Seat, role: RoleConfig) -> ModelPart:
    """The role's reward model with its weights, as `build_model` makes a language model."""
    groups.seed(seat.run.loop.seed)
    runs, bare = execution(seat, role), role.reward.no_post_layer_norm
    chunks = [RewardModel(role.model, runs, chunk=chunk, no_post_layer_norm=bare) for chunk in range(runs.chunks)]
    return _loaded(part_of(chunks), seat, role)


def _loaded(model: ModelPart, seat: Seat, role: RoleConfig) -> ModelPart:
    """The same model on the process's device, with weights where there are some to load."""
    model.to(seat.device)
    source = open_initial_weights(role)
    if source is not None:
        tensors = source.local_tensors(role.model, placement_of(role, seat.place))
        for problem in load_into(model, tensors, str(source.path), source.loosely):
            logger.warning("tolerated: %s", problem)
    return model


def offload_from(seat: Seat, role: RoleConfig) -> torch.device | None:
    """The device a frozen role leaves while it is not at work; None where it stays."""
    return seat.device if role.reward.offload else None


def build_feed(seat: Seat, role: RoleConfig, dataset: PairSource | None) -> Feed:
    """The role's view of a dataset."""
    return Feed(
        dataset=dataset,
        place=seat.place,
        device=seat.device,
        limit=limit_of(role),
        costs=multiply_adds(role.model),
        share_prompt=shares_prompt(seat, role),
        multiple_of=role.row_multiple,
        vocab_size=role.model.vocab_size,
    )


def limit_of(role: RoleConfig) -> Limit:
    """What a micro-batch of a role holds."""
    budget, stages = role.batch.micro_batch_tokens, role.parallel.pipeline_model_parallel_size
    if budget is None:
        # What an interleaved schedule lacks it makes up for with work that nobody needs.
        return Limit(units=role.batch.micro_batch_size, at_least=stages if role.parallel.is_interleaved else 1)
    # Padding counts: what is left over could never be filled.
    return Limit(rows=budget - budget % role.row_multiple, at_least=stages)


def shares_prompt(seat: Seat, role: RoleConfig) -> bool:
    """Whether prompts are shared: where that is asked for, and the device's attention can; a collective."""
    batch, model, topology = role.batch, role.model, seat.place.topology
    if not (batch.share_prompt and batch.probe_share_prompt and seat.accelerator.kind == "npu"):
        return batch.share_prompt
    problem = prefix_problem(
        seat.device,
        getattr(torch, role.precision.dtype),
        heads=model.num_attention_heads // topology.tp // topology.cp,
        groups=key_heads(model.num_query_groups // topology.tp, topology.cp),
        width=model.kv_channels,
        window=model.sliding_window,
    )
    tried, instead = "attention over a shared prompt", "each response repeats its prompt, as if share_prompt were false"
    return _works_everywhere(seat, role, tried, problem, instead)


def fuses_head(seat: Seat, role: RoleConfig, shard: VocabShard) -> bool:
    """Whether the device's operator scores: where it is there, is right, and suits all roles; a collective.

    It knows no statistics, and its backward half multiplies for the weight's gradient also where adapters leave the
    weight alone. It rounds otherwise than the plain head, so that all roles of a run use it or none: else a policy and
    its equal reference would differ.
    """
    actor, dtype = seat.run.actor, getattr(torch, role.precision.dtype)
    if seat.run.loop.log_token_statistics or actor.loss.use_weighting or actor.adapters.is_on:
        return False
    tried, instead = "the device's fused log-probability head", "the plain head scores instead"
    is_there = has_kernel(torch.empty(0, dtype=dtype, device=seat.device), shard.fewest_real)
    if not groups.holds_everywhere(is_there, seat.device):
        # Versions of torch_npu may differ between nodes, and what follows has collectives too.
        if is_there:
            logger.warning("%s: another process lacks %s; %s", role.name, tried, instead)
        return False
    problem = head_problem(seat.device, dtype, role.model.hidden_size)
    return _works_everywhere(seat, role, tried, problem, instead)


def _works_everywhere(seat: Seat, role: RoleConfig, tried: str, problem: str | None, instead: str) -> bool:
    """Whether no process of the pool found a problem with what all tried; who did says so. A collective."""
    if problem is not None:
        logger.warning("%s: %s was tried: %s", role.name, tried, problem)
    works = groups.holds_everywhere(problem is None, seat.device)
    if not works:
        logger.warning("%s: %s", role.name, instead)
    return works


def execution(seat: Seat, role: RoleConfig) -> Execution:
    """How the role's model runs."""
    return Execution(
        topology=seat.place.topology,
        dtype=getattr(torch, role.precision.dtype),
        chunks=role.num_chunks,
        sequence_parallel=role.parallel.sequence_parallel,
        recompute_granularity=role.recompute.recompute_granularity,
        recompute_method=role.recompute.recompute_method,
        recompute_num_layers=role.recompute.recompute_num_layers,
        on_cpu=seat.accelerator.kind == "cpu",
        # What a loosely fitting checkpoint leaves out must not be whatever lay in memory.
        initialise=role.checkpoint.random_init or role.checkpoint.load_checkpoint_loosely,
    )


def placement_of(role: RoleConfig, place: Place) -> Placement:
    """The part of the model that a process at this place holds."""
    topology, virtual = place.topology, role.parallel.num_layers_per_virtual_pipeline_stage
    return Layout(topology.tp, topology.pp, virtual).of_rank(role.model.num_layers, place.tp_rank, place.pp_rank)
