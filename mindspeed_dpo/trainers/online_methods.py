"""Online methods: DPO and XPO train on pairs of scored responses, Nash-MD on the policy's responses alone.

A method requests the reference's log-probabilities that its loss needs, selects responses, and builds the training
batch. `OnlineDPOTrainer` orders these calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mindspeed_dpo.algorithms.nash_md import advantages
from mindspeed_dpo.algorithms.pairing import Selection, select_first, select_pairs
from mindspeed_dpo.batches import PreferenceBatch
from mindspeed_dpo.config.settings.pair_selection import DPO, NASH_MD, XPO, PairingConfig
from mindspeed_dpo.controller.role_groups import ReferenceGroup
from mindspeed_dpo.device.ops.sums import plain_segment_sum
from mindspeed_dpo.workers.role_values import Logps

Scores = NDArray[np.float32]
"""Scores of K responses to each of P prompts, [P, K] float32."""
POLICY, SECOND_MODEL = 0, 1
"""Index of the response of the policy and of the second model, where there are two."""


@dataclass(frozen=True)
class ReferenceLogprobs:
    """Log-probabilities of responses under the reference.

    Example, for one prompt with two responses:

        ReferenceLogprobs(logps=array([[-22.0, -30.0]]), responses=PreferenceBatch(...))

    Attributes:
        logps: [P, k] float64 of the first k responses to P prompts, in nats.
        responses: Those k responses, with per-token log-probabilities of the reference where the method needs them.
    """

    logps: Logps
    responses: PreferenceBatch


class OnlineMethod(Protocol):
    """A method to train on scored responses."""

    @property
    def own(self) -> int | None:
        """Number of responses per prompt, the first ones, that are the policy's; None for all."""

    def start_ref_logps(self, reference: ReferenceGroup, responses: PreferenceBatch) -> Callable[[], ReferenceLogprobs]:
        """Start to compute the reference's log-probabilities; the returned function waits for them."""

    def select(self, responses: PreferenceBatch, scores: Scores, seed: Sequence[int]) -> Selection:
        """Select by scores [P, K] float32 the responses to train on."""

    def training_batch(
        self, ref_logps: ReferenceLogprobs, selection: Selection, scores: Scores
    ) -> tuple[PreferenceBatch, Logps]:
        """Return the batch that the actor trains on, and the reference's log-probabilities of it.

        Args:
            ref_logps: Log-probabilities of the reference.
            selection: The responses to train on.
            scores: [P, K] float32 scores of all responses.

        Returns:
            The batch of N selected prompts with their responses, and [N, responses] float64 log-probabilities, in nats.
        """


def method_of(pairing: PairingConfig, *, is_reward_aware: bool = False) -> OnlineMethod:
    """Return the method that the settings name.

    Args:
        pairing: The settings.
        is_reward_aware: Whether the loss reads the difference of the scores of a pair; only DPO has such losses.
    """
    methods: dict[str, Callable[[PairingConfig], OnlineMethod]] = {
        DPO: RewardAwareMethod if is_reward_aware else DpoMethod,
        XPO: XpoMethod,
        NASH_MD: NashMdMethod,
    }
    return methods[pairing.online_method](pairing)


@dataclass(frozen=True)
class DpoMethod:
    """DPO on the policy's own responses, Guo et al. 2024 (arXiv:2402.04792)."""

    pairing: PairingConfig
    own: int | None = None

    def start_ref_logps(self, reference: ReferenceGroup, responses: PreferenceBatch) -> Callable[[], ReferenceLogprobs]:
        """Start to compute the log-probability of every response; the returned function waits for them."""
        pending = reference.start_log_probs(responses)
        return lambda: ReferenceLogprobs(pending(), responses)

    def select(self, responses: PreferenceBatch, scores: Scores, seed: Sequence[int]) -> Selection:
        """Select pairs of responses by their scores [P, K] float32 and the configured rule."""
        rule, margin = self.pairing.pair_selection, self.pairing.min_reward_margin
        return select_pairs(responses, scores, rule=rule, min_margin=margin, seed=seed)

    def training_batch(
        self, ref_logps: ReferenceLogprobs, selection: Selection, scores: Scores
    ) -> tuple[PreferenceBatch, Logps]:
        """Return the N selected pairs with the reference's log-probabilities, [N, 2] float64 in nats."""
        return ref_logps.responses.choose(selection.prompts, selection.responses), selection.of(ref_logps.logps)


@dataclass(frozen=True)
class RewardAwareMethod(DpoMethod):
    """DPO with the scores of the reward in its loss, section 3.3.2 of NVIDIA 2024 (arXiv:2406.11704)."""

    def training_batch(
        self, ref_logps: ReferenceLogprobs, selection: Selection, scores: Scores
    ) -> tuple[PreferenceBatch, Logps]:
        """Return the N selected pairs, the difference of their scores as `margins`, as `DpoMethod` does.

        The log-probabilities of the reference are [N, 2] float64, in nats.
        """
        pairs, logps = super().training_batch(ref_logps, selection, scores)
        chosen, rejected = selection.of(scores).T
        return replace(pairs, margins=torch.from_numpy(chosen - rejected)), logps


@dataclass(frozen=True)
class XpoMethod(DpoMethod):
    """DPO on a response of the policy and one of the reference, Xie et al. 2024 (arXiv:2405.21046)."""

    own: int | None = 1

    def training_batch(
        self, ref_logps: ReferenceLogprobs, selection: Selection, scores: Scores
    ) -> tuple[PreferenceBatch, Logps]:
        """Return the N selected pairs, the reference's response marked by 1 in `logp_weights`, as `DpoMethod` does.

        The log-probabilities of the reference are [N, 2] float64, in nats.
        """
        pairs, logps = super().training_batch(ref_logps, selection, scores)
        return replace(pairs, logp_weights=(selection.responses == SECOND_MODEL).float()), logps


@dataclass(frozen=True)
class NashMdMethod:
    """Nash-MD, Munos et al. 2023 (arXiv:2312.00886): a policy gradient weighted by the preference over the mixture."""

    pairing: PairingConfig
    own: int | None = 1

    def start_ref_logps(self, reference: ReferenceGroup, responses: PreferenceBatch) -> Callable[[], ReferenceLogprobs]:
        """Start to compute the log-probability of every token of the policy's responses; the mixture's need none."""
        prompts = torch.arange(responses.num_prompts)
        own = responses.choose(prompts, torch.full((len(prompts), 1), POLICY))
        pending = reference.start_token_log_probs(own)

        def wait() -> ReferenceLogprobs:
            tokens = torch.from_numpy(np.array(pending()))
            lengths = own.response_lengths[:, 0].long()
            sums = plain_segment_sum(tokens, torch.repeat_interleave(prompts, lengths), lengths)
            return ReferenceLogprobs(sums[:, None].numpy(), replace(own, ref_token_logps=tokens))

        return wait

    def select(self, responses: PreferenceBatch, scores: Scores, seed: Sequence[int]) -> Selection:
        """Select by scores [P, 2] float32 the policy's response of every prompt both of whose responses were scored."""
        return select_first(scores)

    def training_batch(
        self, ref_logps: ReferenceLogprobs, selection: Selection, scores: Scores
    ) -> tuple[PreferenceBatch, Logps]:
        """Return the policy's responses to N prompts, each with its advantage as `logp_weights`.

        The advantages follow from the scores [P, 2] float32; the log-probabilities of the reference are [N, 1] float64,
        in nats.
        """
        chosen = selection.prompts
        own = ref_logps.responses.select(chosen.tolist())
        better = torch.from_numpy(advantages(selection.of(scores)))
        return replace(own, logp_weights=better[:, None]), ref_logps.logps[chosen.numpy()]
