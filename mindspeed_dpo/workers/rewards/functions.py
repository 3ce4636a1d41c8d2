"""Reward functions of the user: their weighted sum is the score. Called the way users of TRL know it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.config.settings.online import RewardConfig
from mindspeed_dpo.workers.rewards.batched_calls import Functions, ask
from mindspeed_dpo.workers.rewards.decoding import MESSAGES, PromptText, TextReader
from mindspeed_dpo.workers.rewards.sandbox import Arguments, IsolatedFunctions, Value
from mindspeed_dpo.workers.rewards.scorer import Scored

ARGUMENTS = ("prompts", "completions", "completion_ids", MESSAGES)
"""What every reward function may take, beside the additional keys."""
JUDGE_ARGUMENTS = ("prompts", "completions", MESSAGES)


def open_functions(settings: RewardConfig) -> IsolatedFunctions:
    """Start the process of the functions, or of the judge, that the settings name.

    Raises:
        ValueError: One cannot be imported or called, or asks for what it cannot get; the message names all of them.
    """
    key, paths = ("judge", [settings.judge]) if settings.judge else ("reward_functions", settings.reward_functions)
    given = JUDGE_ARGUMENTS if settings.judge else ARGUMENTS
    taken = [name for name in settings.dataset_additional_keys if name in given and name != MESSAGES]
    if taken:
        raise ValueError(f"dataset_additional_keys names {taken[0]}, which {key} get anyway; rename the column")
    try:
        functions = IsolatedFunctions(paths, timeout_s=settings.reward_timeout_s)
        problems = functions.lacking(list(dict.fromkeys([*given, *settings.dataset_additional_keys])))
        if problems:
            functions.close()
            raise ValueError("; ".join(problems))
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
    return functions


def check_functions(settings: RewardConfig) -> None:
    """See, without calling them, that the functions or the judge of the settings can be called; nothing stays open.

    Raises:
        ValueError: See `open_functions`.
    """
    if settings.judge or settings.reward_functions:
        open_functions(settings).close()


class FunctionScorer:
    """The weighted sum of functions."""

    def __init__(
        self, functions: Functions, paths: Sequence[str], weights: Sequence[float], reader: TextReader
    ) -> None:
        """Score by functions.

        Args:
            functions: Where they are called.
            paths: Dotted paths.
            weights: Factor of each; none is 1 for all.
            reader: Makes text of rollouts.
        """
        self._functions = functions
        self._weights = list(zip(paths, weights or [1.0] * len(paths), strict=True))
        self._reader = reader

    def score(self, rollouts: RolloutBatch) -> Scored:
        """See `protocol.Scorer`. A function without an opinion on a response is left out of its sum."""
        prompts = self._reader.read(rollouts)
        sums = np.zeros((len(prompts), rollouts.num_responses))
        has_opinion = np.zeros(sums.shape, bool)
        failures: dict[int, str] = {}
        for path, weight in self._weights:
            # A prompt that one function could not score has no score, whatever the others say.
            asked = [p for p in range(len(prompts)) if p not in failures]
            for p, answer in zip(
                asked, ask(self._functions, path, [_arguments(prompts[p]) for p in asked]), strict=True
            ):
                if cause := _cause(answer):
                    failures[p] = f"{path} {cause} for {prompts[p]}"
                else:
                    values = np.array(answer, dtype=np.float64)
                    known = ~np.isnan(values)
                    sums[p, known] += weight * values[known]
                    has_opinion[p] |= known
        scores = _as_float32(np.where(has_opinion, sums, np.nan))
        for p in np.flatnonzero(~np.isfinite(scores).all(axis=1)).tolist():
            failures.setdefault(p, f"{_unscored(scores[p])} for {prompts[p]}")
        scores[list(failures)] = np.nan
        return Scored(scores, failures)


def _arguments(prompt: PromptText) -> Arguments:
    """One element per response; what belongs to the prompt is repeated."""
    k = len(prompt.completions)
    return {
        "prompts": [prompt.prompt] * k,
        "completions": prompt.completions,
        "completion_ids": prompt.completion_ids,
        **{name: [value] * k for name, value in prompt.columns.items()},
    }


def _cause(answer: list[Value] | str) -> str | None:
    if isinstance(answer, str):
        return answer
    wrong = [(k, value) for k, value in enumerate(answer) if isinstance(value, str)]
    return f"scored response {wrong[0][0]} with {wrong[0][1]}" if wrong else None


def _as_float32(scores: NDArray[np.float64]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # an overflow becomes inf, which is reported
        return scores.astype(np.float32)


def _unscored(scores: NDArray[np.float32]) -> str:
    if np.isinf(scores).any():
        return "the sum of reward_functions is too large"
    return f"no reward function had an opinion on response {int(np.isnan(scores).argmax())}"
