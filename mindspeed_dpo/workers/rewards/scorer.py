"""What every scorer answers: a score for each response, and a sentence for each prompt that could not be scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.batches import RolloutBatch


@dataclass(frozen=True)
class Scored:
    """Scores of P prompts with K responses each.

    A prompt is scored whole or not at all: a pair cannot be chosen fairly from some of its responses.

    Attributes:
        scores: [P, K] float32; all K are NaN where the prompt could not be scored.
        failures: Position of each such prompt -> one sentence that names it and the cause.
    """

    scores: NDArray[np.float32]
    failures: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def concat(cls, parts: Sequence[Scored]) -> Scored:
        """The scores of several replicas as one, in their order."""
        starts = np.cumsum([0, *(len(part.scores) for part in parts)]).tolist()
        failures = {
            start + position: sentence
            for start, part in zip(starts, parts, strict=False)
            for position, sentence in part.failures.items()
        }
        return cls(np.concatenate([part.scores for part in parts]), failures)

    def settled(self, rows: Sequence[int]) -> Scored:
        """The same scores, with every prompt either scored whole or reported.

        Args:
            rows: [P] dataset row of each prompt, to name it by.
        """
        failures = dict(self.failures)
        for position in np.flatnonzero(~np.isfinite(self.scores).all(axis=1)).tolist():
            given = ", ".join(str(score) for score in self.scores[position].tolist())
            failures.setdefault(position, f"the responses to dataset row {rows[position]} were scored {given}")
        scores = self.scores.copy()
        scores[list(failures)] = np.nan
        return Scored(scores, failures)

    def less(self, penalties: NDArray[np.float32]) -> Scored:
        """The same with [P, K] penalties subtracted."""
        return Scored(self.scores - penalties, self.failures)


class Scorer(Protocol):
    """Whatever gives responses a score. All processes of a replica are asked alike."""

    def score(self, rollouts: RolloutBatch) -> Scored | None:
        """Scores of all the prompts given, at least one; None from a process that does not speak for its replica."""


class PromptColumns(Protocol):
    """Where the columns of prompts are looked up."""

    def columns(self, rows: Sequence[int] | NDArray[np.int64]) -> Mapping[str, Sequence[Any]]:
        """Values by column name, one for each of the rows: `messages` and the additional keys."""
