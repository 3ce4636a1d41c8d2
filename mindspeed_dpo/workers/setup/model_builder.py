"""Builds what a role works with from its settings: the model with its weights, and the batch builder."""

from __future__ import annotations

import logging

import torch

from mindspeed_dpo.config.estimates.workload import multiply_adds
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.data.batching.micro_batch_plan import MicroBatchLimit
from mindspeed_dpo.device.operator_probe import head_problem, prefix_problem
from mindspeed_dpo.device.ops.fused_linear_logprobs import has_kernel
from mindspeed_dpo.engine.weight_loading import load_into
from mindspeed_dpo.models.layer_spec import Execution
from mindspeed_dpo.models.lora import add_adapters, load_adapters
from mindspeed_dpo.models.moe.router_training import train_routers
from mindspeed_dpo.models.policy import PolicyModel
from mindspeed_dpo.models.reward import HEAD_PARAMETERS, RewardModel, score_head
from mindspeed_dpo.models.virtual_stages import PipelineStage, join_virtual_stages
from mindspeed_dpo.models.vocab_shard import VocabShard
from mindspeed_dpo.parallel import process_groups
from mindspeed_dpo.parallel.context_parallel import num_key_heads_per_rank
from mindspeed_dpo.parallel.random_seeds import seed_generators
from mindspeed_dpo.parallel.topology import ParallelRank
from mindspeed_dpo.weights.layer_placement import ParallelLayout, Placement
from mindspeed_dpo.workers.batching.batch_builder import BatchBuilder, PairSource
from mindspeed_dpo.workers.setup.initial_weights import open_initial_adapter, open_initial_weights
from mindspeed_dpo.workers.setup.worker_context import WorkerContext

logger = logging.getLogger(__name__)


def build_model(context: WorkerContext, role: RoleConfig, *, statistics: bool = False) -> PipelineStage:
    """Build a role's language model with its weights: random with `random_init`, otherwise those of `load`.

    Args:
        context: Context of this process.
        role: Settings of the role.
        statistics: Whether the head also computes the columns of token statistics.
    """
    # Each model is initialised from the same seed, so that a random policy equals its random reference.
    seed_generators(context.run.loop.seed)
    run_options = execution(context, role)
    chunks = [PolicyModel(role.model, run_options, statistics, chunk=chunk) for chunk in range(run_options.num_chunks)]
    fused = fuses_head(context, role, chunks[0].shard)
    for chunk in chunks:
        chunk.fused_head = fused
    return _loaded(join_virtual_stages(chunks), context, role)


def build_trained_model(context: WorkerContext, role: RoleConfig, *, statistics: bool = False) -> PipelineStage:
    """Build a role's language model with its adapters, if it trains any; `build_model` has the arguments."""
    return _trained(build_model(context, role, statistics=statistics), context, role)


def build_trained_reward_model(context: WorkerContext, role: RoleConfig) -> PipelineStage:
    """Build a role's reward model with its adapters, if it trains any; the head is trained with either.

    The head's bias is frozen: the classifiers of transformers have none, and it changes no preference.
    """
    model = _trained(build_reward_model(context, role), context, role)
    head = score_head(model)
    if head is not None:
        head.weight.requires_grad_(True)
        head.bias.requires_grad_(False)
    return model


def _trained(model: PipelineStage, context: WorkerContext, role: RoleConfig) -> PipelineStage:
    """Set up the routers of a trained model, and add its adapters, if it trains any."""
    train_routers(model, role.model, role.router)
    if role.adapters.is_on:
        add_adapters(model, role.model, placement_of(role, context.place), role.adapters, context.run.loop.seed)
        adapter = open_initial_adapter(role)
        if adapter is not None:
            load_adapters(model, adapter)
    return model


def build_reward_model(context: WorkerContext, role: RoleConfig) -> PipelineStage:
    """Build a role's reward model with its weights; its head is new where these are of a language model, or random."""
    seed_generators(context.run.loop.seed)
    run_options, no_norm = execution(context, role), role.reward.no_post_layer_norm
    chunks = [
        RewardModel(role.model, run_options, chunk=chunk, no_post_layer_norm=no_norm)
        for chunk in range(run_options.num_chunks)
    ]
    return _loaded(join_virtual_stages(chunks), context, role)


def _loaded(model: PipelineStage, context: WorkerContext, role: RoleConfig) -> PipelineStage:
    """Move a model to the process's device and load its weights, if it has any to load."""
    model.to(context.device)
    source, head = open_initial_weights(role), score_head(model)
    if head is not None and (source is None or source.decoder_only):
        head.initialise(role.model.init_method_std, context.run.loop.seed)
    if source is not None:
        tensors = source.local_tensors(role.model, placement_of(role, context.place))
        initialised = HEAD_PARAMETERS if source.decoder_only else ()
        for problem in load_into(model, tensors, str(source.path), source.loosely, initialised):
            logger.warning("loaded anyway (load_checkpoint_loosely): %s", problem)
    return model


def offload_from(context: WorkerContext, role: RoleConfig) -> torch.device | None:
    """Return the device that a frozen role is offloaded from while inactive; None without offloading."""
    return context.device if role.reward.offload else None


def make_batch_builder(context: WorkerContext, role: RoleConfig, dataset: PairSource | None) -> BatchBuilder:
    """Build the batch builder of a role; None as dataset where pairs come with each call."""
    return BatchBuilder(
        dataset=dataset,
        place=context.place_of(role),
        device=context.device,
        limit=limit_of(role),
        costs=multiply_adds(role.model, scalar_head=role.has_score_head),
        share_prompt=shares_prompt(context, role),
        multiple_of=role.row_multiple,
        vocab_size=role.model.vocab_size,
    )


def limit_of(role: RoleConfig) -> MicroBatchLimit:
    """Return the most pairs or rows of a role's micro-batches, and the fewest micro-batches of a step."""
    budget, stages = role.batch.micro_batch_tokens, role.parallel.pipeline_model_parallel_size
    if budget is None:
        # An interleaved schedule pads with dummy micro-batches up to the number of stages.
        return MicroBatchLimit(
            units=role.batch.micro_batch_size, min_micro_batches=stages if role.parallel.is_interleaved else 1
        )
    # Rows are padded to a multiple, so a remainder of the budget could never be used.
    return MicroBatchLimit(rows=budget - budget % role.row_multiple, min_micro_batches=stages)


def shares_prompt(context: WorkerContext, role: RoleConfig) -> bool:
    """Return whether prompts are shared: as configured, if the device's attention supports it; a collective."""
    batch, model, topology = role.batch, role.model, context.place.topology
    if not (batch.share_prompt and batch.probe_share_prompt and context.accelerator.kind == "npu"):
        return batch.share_prompt
    problem = prefix_problem(
        context.device,
        getattr(torch, role.precision.dtype),
        heads=model.num_attention_heads // topology.tp // topology.cp,
        groups=num_key_heads_per_rank(model.num_query_groups // topology.tp, topology.cp),
        width=model.kv_channels,
        window=model.sliding_window,
    )
    tried, instead = "attention over a shared prompt", "each response repeats its prompt, as with share_prompt=false"
    return _works_everywhere(context, role, tried, problem, instead)


def fuses_head(context: WorkerContext, role: RoleConfig, shard: VocabShard) -> bool:
    """Return whether to use the device's fused head: available, correct and suitable for all roles; a collective.

    It computes no token statistics, and its backward pass computes the weight's gradient even where adapters freeze the
    weight. It rounds differently from the plain head, so either all roles of a run use it or none: otherwise a policy
    and an equal reference would differ.
    """
    actor, dtype = context.run.actor, getattr(torch, role.precision.dtype)
    if context.run.loop.log_token_statistics or actor.loss.use_weighting or actor.adapters.is_on:
        return False
    tried, instead = "the device's fused log-probability head", "using the plain head"
    is_available = has_kernel(torch.empty(0, dtype=dtype, device=context.device), shard.min_num_real)
    if not process_groups.all_processes_agree(is_available, context.device):
        # Versions of torch_npu may differ between nodes; all ranks must return here, as collectives follow.
        if is_available:
            logger.warning("%s: another process lacks %s; %s", role.name, tried, instead)
        return False
    problem = head_problem(context.device, dtype, role.model.hidden_size)
    return _works_everywhere(context, role, tried, problem, instead)


def _works_everywhere(context: WorkerContext, role: RoleConfig, tried: str, problem: str | None, instead: str) -> bool:
    """Return whether no process of the pool has a problem, and log those that have; a collective."""
    if problem is not None:
        logger.warning("%s: the check of %s failed: %s", role.name, tried, problem)
    works = process_groups.all_processes_agree(problem is None, context.device)
    if not works:
        logger.warning("%s: %s", role.name, instead)
    return works


def execution(context: WorkerContext, role: RoleConfig) -> Execution:
    """Return the execution options of a role's model: layout, dtype, recomputation, initialisation."""
    return Execution(
        topology=context.place.topology,
        dtype=getattr(torch, role.precision.dtype),
        num_chunks=role.num_chunks,
        sequence_parallel=role.parallel.sequence_parallel,
        recompute_granularity=role.recompute.recompute_granularity,
        recompute_method=role.recompute.recompute_method,
        recompute_num_layers=role.recompute.recompute_num_layers,
        on_cpu=context.accelerator.kind == "cpu",
        # A loosely loaded checkpoint may leave parameters out; these must not be uninitialised memory.
        random_init=role.checkpoint.random_init or role.checkpoint.load_checkpoint_loosely,
    )


def placement_of(role: RoleConfig, place: ParallelRank) -> Placement:
    """The part of the model that a process at this place holds."""
    topology, virtual = place.topology, role.parallel.num_layers_per_virtual_pipeline_stage
    return ParallelLayout(topology.tp, topology.pp, virtual, ep=topology.ep).rank_placement(
        role.model.num_layers, place.tp_rank, place.pp_rank, place.ep_rank
    )
