"""Scores by a judge, a user's function that compares two responses: the score is the share of comparisons won."""

from __future__ import annotations

import random
from itertools import combinations

import numpy as np

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.workers.rewards.batched_function_calls import call_for_prompts
from mindspeed_dpo.workers.rewards.detokenization import PromptText, TextReader
from mindspeed_dpo.workers.rewards.sandbox import Arguments, IsolatedFunctions
from mindspeed_dpo.workers.rewards.sandbox_replies import Value
from mindspeed_dpo.workers.scorer import Scored

Comparison = tuple[int, int]
"""Indices of two of the K responses, in the order in which the judge sees them."""


class JudgeScorer:
    """Compares every two responses of a prompt."""

    def __init__(self, functions: IsolatedFunctions, path: str, reader: TextReader, *, seed: int) -> None:
        """Score by comparisons.

        Args:
            functions: Functions by path.
            path: Dotted path of the judge.
            reader: Decodes rollouts to text.
            seed: Seed of the run; with the comparison it decides which response is shown first.
        """
        self._functions = functions
        self._path = path
        self._reader = reader
        self._seed = seed

    def score(self, rollouts: RolloutBatch) -> Scored:
        """Return the share of comparisons won, [P, K] in [0, 1]; NaN for prompts with a failed comparison."""
        prompts = self._reader.read(rollouts)
        k = rollouts.num_responses
        shown = [self._comparisons(prompt.row, rollouts.version, k) for prompt in prompts]
        arguments = [_arguments(prompt, pairs) for prompt, pairs in zip(prompts, shown, strict=True)]
        wins = np.zeros((len(prompts), k), np.float32)
        failures = {}
        for p, result in enumerate(call_for_prompts(self._functions, self._path, arguments)):
            if cause := _cause(result, shown[p]):
                failures[p] = f"{self._path} {cause} for {prompts[p]}"
                wins[p] = np.nan
                continue
            for pair, better in zip(shown[p], result, strict=True):
                wins[p, pair[better == 1]] += 1
        return Scored(wins / np.float32(k - 1), failures)

    def _comparisons(self, row: int, version: int, k: int) -> list[Comparison]:
        """Return every two of K responses in random order: judges have position bias.

        The order depends on the run's seed, the policy version, the dataset row and the two responses only, so it is
        the same however prompts are split over processes, and after a resume.
        """
        pairs = []
        for first, second in combinations(range(k), 2):
            is_swapped = random.Random(f"{self._seed}/{version}/{row}/{first}/{second}").random() < 0.5
            pairs.append((second, first) if is_swapped else (first, second))
        return pairs


def _arguments(prompt: PromptText, pairs: list[Comparison]) -> Arguments:
    """Return one element per comparison; values of the prompt are repeated."""
    return {
        "prompts": [prompt.prompt] * len(pairs),
        "completions": [[prompt.completions[first], prompt.completions[second]] for first, second in pairs],
        **{name: [value] * len(pairs) for name, value in prompt.columns.items()},
    }


def _cause(result: list[Value] | str, pairs: list[Comparison]) -> str | None:
    if isinstance(result, str):
        return result
    for (first, second), value in zip(pairs, result, strict=True):
        if value not in (0, 1):
            what = "had no opinion" if value in (None, -1) else f"returned {value} instead of 0 or 1"
            return f"{what} on responses {first} and {second}"
    return None
