"""The amount of work: multiply-adds of a model, and prompts, responses and steps of an iteration of online DPO."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from mindspeed_dpo.config.estimates.parameter_counts import num_layers_parameters
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.config.settings.model import ModelConfig

CACHE_BLOCK = 64
"""Tokens per block of the rollout's key-value cache; a response reserves complete blocks."""


class MultiplyAdds(NamedTuple):
    """Multiply-adds of a forward pass; a backward pass has twice as many. A logit layer of V x H has `per_label` V H.

    Attributes:
        per_token: For one token in all layers, without attention scores.
        per_label: For one response token in the output layer.
        per_attended_key: For one query and one key that it attends to, in all layers.
    """

    per_token: int
    per_label: int
    per_attended_key: int


def multiply_adds(model: ModelConfig, *, scalar_head: bool = False) -> MultiplyAdds:
    """Return the cost of a model's matrix products; a sliding window is not taken into account.

    Args:
        model: The architecture.
        scalar_head: The output layer is scalar, as of a reward model, which has no output per token.
    """
    width = model.num_attention_heads * model.kv_channels
    return MultiplyAdds(
        per_token=num_layers_parameters(model, range(model.num_layers), experts=model.moe_router_topk),
        per_label=0 if scalar_head else model.vocab_size * model.hidden_size,
        # Scores, and the weighted sum of values.
        per_attended_key=2 * model.num_layers * width,
    )


@dataclass(frozen=True)
class Workload:
    """One iteration of online DPO: for example 8 prompts x 3 responses with at most 8 pairs in 1 optimizer step.

    Attributes:
        prompts: Prompts of the iteration.
        responses: Responses of the iteration.
        pairs: Maximum number of pairs; prompts whose responses have equal scores have none.
        mini_batch_pairs: Maximum number of pairs of one optimizer step.
        optimizer_steps: Maximum number of optimizer steps, over all epochs.
        prompts_per_replica: Maximum number of prompts of one rollout replica.
        slots: Maximum number of responses that one rollout replica decodes concurrently.
        tokens_per_slot: Tokens that the cache reserves for one response and its prompt, in complete blocks.
        cache_tokens: Maximum number of tokens in the cache of one rollout replica.
        reserved_tokens: The same, including unused rows of the last decoding pass.
    """

    prompts: int
    responses: int
    pairs: int
    mini_batch_pairs: int
    optimizer_steps: int
    prompts_per_replica: int
    slots: int
    tokens_per_slot: int
    cache_tokens: int
    reserved_tokens: int


def iteration_workload(run: RunConfig) -> Workload:
    """Return the workload of one iteration of an online run."""
    actor, rollout, pairing = run.actor, run.actor.rollout, run.actor.pairing
    prompts, num_samples = actor.batch.global_batch_size, rollout.n_samples_per_prompt
    # The number of steps is fixed; the available pairs are distributed over them.
    steps = max(1, prompts // pairing.ppo_mini_batch_size)
    pairs = prompts * (math.comb(num_samples, 2) if pairing.pair_selection == "all" else 1)
    per_replica = math.ceil(prompts / max(1, run.data_parallel_size("rollout")))
    # Two models generate one after the other, so each prompt has one response in the cache.
    concurrent = 1 if pairing.samples_from_reference else num_samples
    slots = min(rollout.rollout_slots, min(rollout.num_samples_per_step or per_replica, per_replica) * concurrent)
    tokens_per_slot = math.ceil(actor.data.seq_length / CACHE_BLOCK) * CACHE_BLOCK
    return Workload(
        prompts=prompts,
        responses=prompts * num_samples,
        pairs=pairs,
        mini_batch_pairs=math.ceil(pairs / steps),
        optimizer_steps=pairing.ppo_epochs * steps,
        prompts_per_replica=per_replica,
        slots=slots,
        tokens_per_slot=tokens_per_slot,
        cache_tokens=slots * tokens_per_slot,
        reserved_tokens=math.ceil(slots / rollout.decode_rows) * rollout.decode_rows * tokens_per_slot,
    )
