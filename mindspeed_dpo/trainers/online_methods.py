"""What is learned from scored responses: pairs of them (DPO, XPO), or the policy's responses alone (Nash-MD).

A method asks the reference for what its loss needs, chooses, and makes what the actor learns from; the order of things
is the trainer's.
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
from mindspeed_dpo.config.settings.online import DPO, NASH_MD, XPO, PairingConfig
from mindspeed_dpo.workers.interfaces import Logps

Scores = NDArray[np.float32]
POLICYS, OTHERS = 0, 1
"""Which response is whose, where the policy meets another model."""


class AsksReference(Protocol):
    """A reference that can be asked before others have answered."""

    def start_log_probs(self, pairs: PreferenceBatch) -> Callable[[], Logps]:
        """See `ReferenceHandle.start_log_probs`."""

    def follow(self, done: int) -> bool:
        """See `roles.Reference`."""

    def start_token_log_probs(self, answers: PreferenceBatch) -> Callable[[], NDArray[np.float32]]:
        """See `ReferenceHandle.start_token_log_probs`."""


@dataclass(frozen=True)
class Known:
    """What the reference says about P prompts with K responses.

    Attributes:
        logps: [P, k] float32 of the first k responses, in nats.
        answers: Those k responses, with the reference's tokens where the method needs them.
    """

    logps: Logps
    answers: PreferenceBatch


class OnlineMethod(Protocol):
    """A way to learn from scored responses."""

    @property
    def own(self) -> int | None:
        """How many of the K responses are the policy's, the first ones; None for all."""

    def ask(self, reference: AsksReference, answers: PreferenceBatch) -> Callable[[], Known]:
        """Begin to ask the reference; what is returned waits."""

    def select(self, answers: PreferenceBatch, scores: Scores, seed: Sequence[int]) -> Selection:
        """Choose by scores [P, K] what is learned from."""

    def lesson(self, known: Known, selection: Selection, scores: Scores) -> tuple[PreferenceBatch, Logps]:
        """What the actor learns from, and the reference's log-probabilities of it."""


def method_of(pairing: PairingConfig) -> OnlineMethod:
    """The method of a run."""
    methods: dict[str, Callable[[PairingConfig], OnlineMethod]] = {DPO: Pairs, XPO: Xpo, NASH_MD: NashMd}
    return methods[pairing.online_method](pairing)


@dataclass(frozen=True)
class Pairs:
    """DPO on the policy's own responses, Guo et al. 2024 (arXiv:2402.04792)."""

    pairing: PairingConfig
    own: int | None = None

    def ask(self, reference: AsksReference, answers: PreferenceBatch) -> Callable[[], Known]:
        """For every response."""
        pending = reference.start_log_probs(answers)
        return lambda: Known(pending(), answers)

    def select(self, answers: PreferenceBatch, scores: Scores, seed: Sequence[int]) -> Selection:
        """See `select_pairs`."""
        rule, margin = self.pairing.pair_selection, self.pairing.min_reward_margin
        return select_pairs(answers, scores, rule=rule, min_margin=margin, seed=seed)

    def lesson(self, known: Known, selection: Selection, scores: Scores) -> tuple[PreferenceBatch, Logps]:
        """The pairs."""
        return known.answers.choose(selection.prompts, selection.responses), selection.of(known.logps)


@dataclass(frozen=True)
class Xpo(Pairs):
    """DPO on a response of the policy and one of the reference, Xie et al. 2024 (arXiv:2405.21046)."""

    own: int | None = 1

    def lesson(self, known: Known, selection: Selection, scores: Scores) -> tuple[PreferenceBatch, Logps]:
        """The pairs, the reference's response marked by 1."""
        pairs, logps = super().lesson(known, selection, scores)
        return replace(pairs, logp_weights=(selection.responses == OTHERS).float()), logps


@dataclass(frozen=True)
class NashMd:
    """A policy gradient on the policy's response, as good as it does against the mixture's; see `nash_md`."""

    pairing: PairingConfig
    own: int | None = 1

    def ask(self, reference: AsksReference, answers: PreferenceBatch) -> Callable[[], Known]:
        """For every token of the policy's responses; nothing needs the mixture's."""
        everyone = torch.arange(answers.num_prompts)
        own = answers.choose(everyone, torch.full((len(everyone), 1), POLICYS))
        pending = reference.start_token_log_probs(own)

        def wait() -> Known:
            tokens = torch.from_numpy(np.array(pending()))
            which = torch.repeat_interleave(everyone, own.response_lengths[:, 0].long())
            sums = torch.zeros(len(everyone)).index_add(0, which, tokens)
            return Known(sums[:, None].numpy(), replace(own, ref_token_logps=tokens))

        return wait

    def select(self, answers: PreferenceBatch, scores: Scores, seed: Sequence[int]) -> Selection:
        """Every prompt both of whose responses were scored."""
        return select_first(scores)

    def lesson(self, known: Known, selection: Selection, scores: Scores) -> tuple[PreferenceBatch, Logps]:
        """The policy's responses, each with its advantage."""
        chosen = selection.prompts
        own = known.answers.select(chosen.tolist())
        better = torch.from_numpy(advantages(selection.of(scores)))
        return replace(own, logp_weights=better[:, None]), known.logps[chosen.numpy()]
