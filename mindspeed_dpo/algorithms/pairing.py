"""Selects preference pairs among the K responses to each prompt by their scores; counts the pairs it drops.

Scores are final here, penalties included: the logged scores are those that are compared.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mindspeed_dpo.batches import PreferenceBatch

FAILED, IDENTICAL, TIE, MARGIN = "failed", "identical", "tie", "margin"
"""Reasons to drop a candidate pair: a score is missing, equal tokens, equal scores, scores closer than the margin."""

Candidate = tuple[int, int]
_Floating = TypeVar("_Floating", bound=np.floating)


@dataclass(frozen=True)
class Selection:
    """N pairs among the responses of P prompts.

    Example: of three prompts, the first and the last give a pair; the second had equal scores.

        Selection(
            prompts=tensor([0, 2]),
            responses=tensor([[1, 0], [0, 3]]),
            candidates=3,
            left_out={"failed": 0, "identical": 0, "tie": 1, "margin": 0},
        )

    Attributes:
        prompts: [N] int64 positions of the prompts, in order; a prompt may occur several times.
        responses: [N, 2] int64 indices of the two responses, the chosen one first.
        candidates: Number of candidate pairs, the N selected ones included.
        left_out: Number of dropped candidates by reason.
    """

    prompts: Tensor
    responses: Tensor
    candidates: int
    left_out: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.prompts)

    def of(self, values: NDArray[_Floating]) -> NDArray[_Floating]:
        """Return the values [N, 2], float32 or float64, of the selected responses from those of all [P, K]."""
        chosen: NDArray[_Floating] = values[self.prompts.numpy()[:, None], self.responses.numpy()]
        return chosen


def select_pairs(
    responses: PreferenceBatch, scores: NDArray[np.float32], *, rule: str, min_margin: float = 0.0, seed: Sequence[int]
) -> Selection:
    """Select pairs of responses to the same prompt.

    Args:
        responses: P prompts with K responses each.
        scores: [P, K] float32; NaN where a response could not be scored.
        rule: A name of `RULES`.
        min_margin: Pairs whose scores differ by less are dropped; equal scores always are.
        seed: Seed of a random rule, from the run's and the step's.

    Raises:
        ValueError: The scores are not [P, K], or the rule is unknown.
    """
    if scores.shape != tuple(responses.response_lengths.shape):
        raise ValueError(f"scores must be {list(responses.response_lengths.shape)}, got {list(scores.shape)}")
    if rule not in RULES:
        raise ValueError(f"pair_selection={rule!r} is unknown: choose one of {', '.join(RULES)}")
    generator = np.random.default_rng(list(seed))
    selected, reasons = [], Counter[str]()
    for prompt, of_prompt in enumerate(responses.responses()):
        for pair in RULES[rule](scores[prompt], generator):
            better, worse = sorted(pair, key=lambda k: scores[prompt, k], reverse=True)
            reason = _drop_reason(of_prompt, scores[prompt], better, worse, min_margin)
            reasons[reason] += 1
            if not reason:
                selected.append((prompt, better, worse))
    indices = torch.tensor(selected, dtype=torch.long).reshape(-1, 3)
    left_out = {reason: reasons[reason] for reason in (FAILED, IDENTICAL, TIE, MARGIN)}
    return Selection(indices[:, 0], indices[:, 1:], sum(reasons.values()), left_out)


def select_first(scores: NDArray[np.float32]) -> Selection:
    """Select the first of two responses as chosen for every prompt, whichever scored higher.

    Ties are included: Nash-MD trains on the first response with an advantage, which is then 0.

    Args:
        scores: [P, 2] float32; NaN where a response could not be scored, which drops the prompt.
    """
    prompts = torch.from_numpy(np.flatnonzero(np.isfinite(scores).all(1)))
    responses = torch.tensor([0, 1]).expand(len(prompts), 2)
    left_out = {FAILED: len(scores) - len(prompts), IDENTICAL: 0, TIE: 0, MARGIN: 0}
    return Selection(prompts, responses, len(scores), left_out)


def _drop_reason(
    responses: Sequence[Tensor], scores: NDArray[np.float32], better: int, worse: int, min_margin: float
) -> str:
    """Return why a candidate is dropped; empty if it is a pair."""
    margin = float(scores[better]) - float(scores[worse])
    if better == worse or not np.isfinite(margin):
        return FAILED
    if torch.equal(responses[better], responses[worse]):
        return IDENTICAL
    if margin == 0:
        return TIE
    return MARGIN if margin < min_margin else ""


def _best_worst(scores: NDArray[np.float32], generator: np.random.Generator) -> Iterator[Candidate]:
    """Yield the responses with the highest and lowest score, the first of equal ones; one alone is no pair."""
    scored = np.flatnonzero(np.isfinite(scores))
    if len(scored) < 2:
        yield 0, 0
        return
    best, worst = int(scored[scores[scored].argmax()]), int(scored[scores[scored].argmin()])
    # If all scores are equal, both would be the same response; that is a tie, not a failure.
    yield best, worst if worst != best else int(scored[1])


def _random(scores: NDArray[np.float32], generator: np.random.Generator) -> Iterator[Candidate]:
    """Yield two different responses, all pairs with equal probability."""
    # Permute all K, so that the draws for the next prompt do not depend on failures of this one.
    order = generator.permutation(len(scores))
    scored = [int(k) for k in order if np.isfinite(scores[k])]
    yield (scored[0], scored[1]) if len(scored) > 1 else (0, 0)


def _all(scores: NDArray[np.float32], generator: np.random.Generator) -> Iterator[Candidate]:
    """Yield every two responses."""
    return itertools.combinations(range(len(scores)), 2)


RULES: dict[str, Callable[[NDArray[np.float32], np.random.Generator], Iterator[Candidate]]] = {
    "best_worst": _best_worst,
    "random": _random,
    "all": _all,
}
