"""Which of the K responses to a prompt become a pair, by their scores. Ties and failures are left out and counted.

Scores come from elsewhere and are final here: what is compared is what is logged.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mindspeed_dpo.batches import PreferenceBatch

FAILED, IDENTICAL, TIE, MARGIN = "failed", "identical", "tie", "margin"
"""Why a candidate pair is left out: a score is missing, equal tokens, equal scores, scores too close."""

Candidate = tuple[int, int]


@dataclass(frozen=True)
class Selection:
    """N pairs among the responses of P prompts.

    Attributes:
        prompts: [N] int64 positions of prompts, in order; one may stand several times.
        responses: [N, 2] int64 which of the K responses, the chosen one first.
        candidates: Pairs that were looked at, the N included.
        left_out: How many of them were left out, by reason.
    """

    prompts: Tensor
    responses: Tensor
    candidates: int
    left_out: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """N."""
        return len(self.prompts)

    def of(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The values [N, 2] of the pairs, from those of all responses [P, K]."""
        chosen: NDArray[np.float32] = values[self.prompts.numpy()[:, None], self.responses.numpy()]
        return chosen


def select_pairs(
    answers: PreferenceBatch, scores: NDArray[np.float32], *, rule: str, min_margin: float = 0.0, seed: Sequence[int]
) -> Selection:
    """Choose pairs of responses to the same prompt.

    Args:
        answers: P prompts with K responses each.
        scores: [P, K] float32; NaN where a response could not be scored.
        rule: A name of `RULES`.
        min_margin: Pairs whose scores differ by less are left out; equal scores always are.
        seed: Of the rule that draws; the run's and the step's.

    Raises:
        ValueError: The scores are not [P, K], or the rule is unknown.
    """
    if scores.shape != tuple(answers.response_lengths.shape):
        raise ValueError(f"scores must be {list(answers.response_lengths.shape)}, got {list(scores.shape)}")
    if rule not in RULES:
        raise ValueError(f"pair_selection={rule!r} is not known: choose one of {', '.join(RULES)}")
    generator = np.random.default_rng(list(seed))
    kept, verdicts = [], Counter[str]()
    for prompt, responses in enumerate(answers.responses()):
        for pair in RULES[rule](scores[prompt], generator):
            better, worse = sorted(pair, key=lambda k: scores[prompt, k], reverse=True)
            verdict = _verdict(responses, scores[prompt], better, worse, min_margin)
            verdicts[verdict] += 1
            if not verdict:
                kept.append((prompt, better, worse))
    places = torch.tensor(kept, dtype=torch.long).reshape(-1, 3)
    left_out = {reason: verdicts[reason] for reason in (FAILED, IDENTICAL, TIE, MARGIN)}
    return Selection(places[:, 0], places[:, 1:], sum(verdicts.values()), left_out)


def select_first(scores: NDArray[np.float32]) -> Selection:
    """The first response to each prompt against the second, in this order whichever is better.

    Ties stay: where the first is what is learned from, equal scores say something too.

    Args:
        scores: [P, 2] float32; NaN where a response could not be scored, which leaves the prompt out.
    """
    kept = torch.from_numpy(np.flatnonzero(np.isfinite(scores).all(1)))
    responses = torch.tensor([0, 1]).expand(len(kept), 2)
    left_out = {FAILED: len(scores) - len(kept), IDENTICAL: 0, TIE: 0, MARGIN: 0}
    return Selection(kept, responses, len(scores), left_out)


def _verdict(
    responses: Sequence[Tensor], scores: NDArray[np.float32], better: int, worse: int, min_margin: float
) -> str:
    """Why a candidate is left out; empty where it is a pair."""
    margin = float(scores[better]) - float(scores[worse])
    if better == worse or not np.isfinite(margin):
        return FAILED
    if torch.equal(responses[better], responses[worse]):
        return IDENTICAL
    if margin == 0:
        return TIE
    return MARGIN if margin < min_margin else ""


def _best_worst(scores: NDArray[np.float32], generator: np.random.Generator) -> Iterator[Candidate]:
    """The highest and the lowest score, of equal ones the first; a lone response makes no pair."""
    scored = np.flatnonzero(np.isfinite(scores))
    if len(scored) < 2:
        yield 0, 0
        return
    best, worst = int(scored[scores[scored].argmax()]), int(scored[scores[scored].argmin()])
    # With all scores equal both would be the same response, which is a tie and no failure.
    yield best, worst if worst != best else int(scored[1])


def _random(scores: NDArray[np.float32], generator: np.random.Generator) -> Iterator[Candidate]:
    """Two different responses, each two alike likely."""
    # Drawn among all K, so that what is drawn for the next prompt does not depend on failures of this one.
    order = generator.permutation(len(scores))
    scored = [int(k) for k in order if np.isfinite(scores[k])]
    yield (scored[0], scored[1]) if len(scored) > 1 else (0, 0)


def _all(scores: NDArray[np.float32], generator: np.random.Generator) -> Iterator[Candidate]:
    """Every two responses."""
    return itertools.combinations(range(len(scores)), 2)


RULES: dict[str, Callable[[NDArray[np.float32], np.random.Generator], Iterator[Candidate]]] = {
    "best_worst": _best_worst,
    "random": _random,
    "all": _all,
}
