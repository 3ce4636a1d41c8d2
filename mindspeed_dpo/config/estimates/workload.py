"""How much one iteration of online DPO is, in prompts, responses, pairs and optimizer steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mindspeed_dpo.config.run import RunConfig

CACHE_BLOCK = 64
"""Tokens of a block, in which the rollout's cache reserves room for a response."""


@dataclass(frozen=True)
class Workload:
    """One iteration.

    Attributes:
        prompts: Of the iteration.
        responses: Of the iteration.
        pairs: Most there can be; prompts whose responses score alike have none.
        mini_batch: Most pairs of one optimizer step.
        optimizer_steps: Most there can be, all epochs together.
        prompts_per_replica: Most prompts that one rollout replica answers.
        slots: Most responses that one rollout replica decodes at once.
        capacity: Tokens for which the cache has room in one response: prompt and answer, in whole blocks.
        cache_tokens: Most tokens in the cache of one rollout replica.
        reserved_tokens: The same with the unused rows of its last decoding pass.
    """

    prompts: int
    responses: int
    pairs: int
    mini_batch: int
    optimizer_steps: int
    prompts_per_replica: int
    slots: int
    capacity: int
    cache_tokens: int
    reserved_tokens: int


def iteration_workload(run: RunConfig) -> Workload:
    """The work of one iteration of an online run."""
    actor, rollout, pairing = run.actor, run.actor.rollout, run.actor.pairing
    prompts, count = actor.batch.global_batch_size, rollout.n_samples_per_prompt
    # However many pairs there are, they are spread over as many steps.
    steps = max(1, prompts // pairing.ppo_mini_batch_size)
    pairs = prompts * (math.comb(count, 2) if pairing.pair_selection == "all" else 1)
    share = math.ceil(prompts / max(1, run.data_parallel_size("rollout")))
    # Where two models answer, they do so one after the other.
    at_once = 1 if pairing.samples_from_reference else count
    slots = min(rollout.rollout_slots, min(rollout.num_samples_per_step or share, share) * at_once)
    capacity = math.ceil(actor.data.seq_length / CACHE_BLOCK) * CACHE_BLOCK
    return Workload(
        prompts=prompts,
        responses=prompts * count,
        pairs=pairs,
        mini_batch=math.ceil(pairs / steps),
        optimizer_steps=pairing.ppo_epochs * steps,
        prompts_per_replica=share,
        slots=slots,
        capacity=capacity,
        cache_tokens=slots * capacity,
        reserved_tokens=math.ceil(slots / rollout.decode_rows) * rollout.decode_rows * capacity,
    )
