"""Scores of rollouts: the interface of all scorers, and what they return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.batches import RolloutBatch


@dataclass(frozen=True)
class Verdicts:
    """The number of texts of a judge model, and of those that had no verdict.

    Example: one of twelve texts had none, as it was cut off.

        Verdicts(12, unparsed=1, cut=1, example="judge_verdict=… finds nothing in its text 'Both are'")

    Attributes:
        count: Number of texts.
        unparsed: Those without a verdict.
        cut: Those that reached their maximum length.
        example: Why the first of those without one has none; empty if all have one.
    """

    count: int = 0
    unparsed: int = 0
    cut: int = 0
    example: str = ""

    def plus(self, other: Verdicts) -> Verdicts:
        """Return the numbers of both together."""
        example = self.example or other.example
        return Verdicts(self.count + other.count, self.unparsed + other.unparsed, self.cut + other.cut, example)

    @property
    def metrics(self) -> dict[str, float]:
        """The shares of texts by their names in the metric table; empty without a text."""
        if not self.count:
            return {}
        return {"judge/unparsed": self.unparsed / self.count, "judge/cut": self.cut / self.count}


@dataclass(frozen=True)
class Scored:
    """Scores of P prompts with K responses each.

    A prompt has either all K scores or none: a pair cannot be chosen fairly from some of its responses.

    Example: two prompts with two responses each, of which the second could not be scored.

        Scored(
            scores=array([[0.5, -1.0], [nan, nan]], dtype=float32),
            failures={1: "the responses to dataset row 8 were scored inf, 1.0"},
        )

    Attributes:
        scores: [P, K] float32; all K are NaN where the prompt could not be scored.
        failures: Position of each such prompt -> an error message that names the prompt and the cause.
        verdicts: What is known of the texts of a judge model.
    """

    scores: NDArray[np.float32]
    failures: Mapping[int, str] = field(default_factory=dict)
    verdicts: Verdicts = Verdicts()

    @classmethod
    def concat(cls, parts: Sequence[Scored]) -> Scored:
        """Concatenate the scores of several replicas in their order."""
        starts = np.cumsum([0, *(len(part.scores) for part in parts)]).tolist()
        failures = {
            start + position: message
            for start, part in zip(starts, parts, strict=False)
            for position, message in part.failures.items()
        }
        verdicts = reduce(Verdicts.plus, (part.verdicts for part in parts), Verdicts())
        return cls(np.concatenate([part.scores for part in parts]), failures, verdicts)

    def validated(self, rows: Sequence[int]) -> Scored:
        """Return the scores with every prompt that has a score that is not finite reported as a failure.

        Args:
            rows: [P] dataset row of each prompt, for the messages.
        """
        failures = dict(self.failures)
        for position in np.flatnonzero(~np.isfinite(self.scores).all(axis=1)).tolist():
            given = ", ".join(str(score) for score in self.scores[position].tolist())
            failures.setdefault(position, f"the responses to dataset row {rows[position]} were scored {given}")
        scores = self.scores.copy()
        scores[list(failures)] = np.nan
        return replace(self, scores=scores, failures=failures)

    def minus(self, penalties: NDArray[np.float32]) -> Scored:
        """Subtract penalties [P, K] float32, in the unit of the scores."""
        return replace(self, scores=self.scores - penalties)


class Scorer(Protocol):
    """A scorer of responses. All processes of a replica call it with the same rollouts."""

    def score(self, rollouts: RolloutBatch) -> Scored | None:
        """Score the prompts, at least one; return None on all but the output rank of the replica."""


class NoScorer:
    """The scorer of processes that leave scoring to the output rank of their replica."""

    def score(self, rollouts: RolloutBatch) -> None:
        """Return None, as these processes have no scores."""


class PromptColumns(Protocol):
    """A dataset that the columns of prompts are read from."""

    def columns(self, rows: Sequence[int] | NDArray[np.int64]) -> Mapping[str, Sequence[Any]]:
        """Return `messages` and the additional keys by column name, one value for each of N int64 dataset rows [N]."""
