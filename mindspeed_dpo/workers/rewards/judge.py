"""A judge of the user, who names the better of two responses: the score is the share of comparisons won."""

from __future__ import annotations

import random
from itertools import combinations

import numpy as np

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.workers.rewards.batched_calls import Functions, ask
from mindspeed_dpo.workers.rewards.decoding import PromptText, TextReader
from mindspeed_dpo.workers.rewards.sandbox import Arguments, Value
from mindspeed_dpo.workers.rewards.scorer import Scored

Comparison = tuple[int, int]
"""Two of the K responses, in the order in which they are shown."""


class JudgeScorer:
    """Every two responses of a prompt are compared."""

    def __init__(self, functions: Functions, path: str, reader: TextReader, *, seed: int) -> None:
        """Score by comparisons.

        Args:
            functions: Where the judge is called.
            path: Its dotted path.
            reader: Makes text of rollouts.
            seed: Of the run; decides, with the rest of what names a comparison, which response is shown first.
        """
        self._functions = functions
        self._path = path
        self._reader = reader
        self._seed = seed

    def score(self, rollouts: RolloutBatch) -> Scored:
        """See `protocol.Scorer`. Scores lie between 0 and 1; a prompt with a failed comparison has none."""
        prompts = self._reader.read(rollouts)
        k = rollouts.num_responses
        shown = [self._comparisons(prompt.row, rollouts.version, k) for prompt in prompts]
        asked = [_arguments(prompt, pairs) for prompt, pairs in zip(prompts, shown, strict=True)]
        wins = np.zeros((len(prompts), k), np.float32)
        failures = {}
        for p, answer in enumerate(ask(self._functions, self._path, asked)):
            if cause := _cause(answer, shown[p]):
                failures[p] = f"{self._path} {cause} for {prompts[p]}"
                wins[p] = np.nan
                continue
            for pair, better in zip(shown[p], answer, strict=True):
                wins[p, pair[better == 1]] += 1
        return Scored(wins / np.float32(k - 1), failures)

    def _comparisons(self, row: int, version: int, k: int) -> list[Comparison]:
        """Every two of K, the one shown first by the toss of a coin: judges favour a place.

        The coin depends on the run's seed, the policy version, the dataset row and the two responses alone, so it falls
        alike however prompts are split over processes, and again after a resume.
        """
        pairs = []
        for first, second in combinations(range(k), 2):
            heads = random.Random(f"{self._seed}/{version}/{row}/{first}/{second}").random() < 0.5
            pairs.append((second, first) if heads else (first, second))
        return pairs


def _arguments(prompt: PromptText, pairs: list[Comparison]) -> Arguments:
    """One element per comparison; what belongs to the prompt is repeated."""
    return {
        "prompts": [prompt.prompt] * len(pairs),
        "completions": [[prompt.completions[first], prompt.completions[second]] for first, second in pairs],
        **{name: [value] * len(pairs) for name, value in prompt.columns.items()},
    }


def _cause(answer: list[Value] | str, pairs: list[Comparison]) -> str | None:
    if isinstance(answer, str):
        return answer
    for (first, second), value in zip(pairs, answer, strict=True):
        if value not in (0, 1):
            what = "had no opinion" if value in (None, -1) else f"answered {value} instead of 0 or 1"
            return f"{what} on responses {first} and {second}"
    return None
