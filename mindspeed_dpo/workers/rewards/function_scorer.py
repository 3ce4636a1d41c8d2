"""Scores by the user's reward functions: their weighted sum, called with the same arguments as in TRL."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.config.settings.reward_sources import RewardConfig
from mindspeed_dpo.workers.rewards.batched_function_calls import call_for_prompts
from mindspeed_dpo.workers.rewards.detokenization import MESSAGES, PromptText, TextReader
from mindspeed_dpo.workers.rewards.sandbox import Arguments, IsolatedFunctions
from mindspeed_dpo.workers.rewards.sandbox_replies import Value
from mindspeed_dpo.workers.scorer import Scored

ARGUMENTS = ("prompts", "completions", "completion_ids", MESSAGES)
"""Arguments available to reward functions, beside the additional keys."""
JUDGE_ARGUMENTS = ("prompts", "completions", MESSAGES)


def open_functions(settings: RewardConfig) -> IsolatedFunctions:
    """Start the process of the configured reward functions, or of the judge.

    Raises:
        ValueError: One cannot be imported or called, or requires an argument that is not available; the message names
            all of them.
    """
    key, paths = ("judge", [settings.judge]) if settings.judge else ("reward_functions", settings.reward_functions)
    available = JUDGE_ARGUMENTS if settings.judge else ARGUMENTS
    reserved = [name for name in settings.dataset_additional_keys if name in available and name != MESSAGES]
    if reserved:
        raise ValueError(f"dataset_additional_keys names {reserved[0]}, which {key} get anyway; rename the column")
    try:
        functions = IsolatedFunctions(paths, timeout_s=settings.reward_timeout_s)
        problems = functions.missing_arguments(list(dict.fromkeys([*available, *settings.dataset_additional_keys])))
        if problems:
            functions.close()
            raise ValueError("; ".join(problems))
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
    return functions


def check_functions(settings: RewardConfig) -> None:
    """Check that the configured functions or judge can be called, without calling them.

    Raises:
        ValueError: They cannot; `open_functions` states the reasons.
    """
    if settings.judge or settings.reward_functions:
        open_functions(settings).close()


class FunctionScorer:
    """Scores responses by a weighted sum of functions."""

    def __init__(
        self, functions: IsolatedFunctions, paths: Sequence[str], weights: Sequence[float], reader: TextReader
    ) -> None:
        """Score by functions.

        Args:
            functions: Functions by path.
            paths: Dotted paths of the functions to sum.
            weights: Factor of each; empty for 1 each.
            reader: Decodes rollouts to text.
        """
        self._functions = functions
        self._weights = list(zip(paths, weights or [1.0] * len(paths), strict=True))
        self._reader = reader

    def score(self, rollouts: RolloutBatch) -> Scored:
        """Return the weighted sum for each response; a function that returns None for one is left out of its sum."""
        prompts = self._reader.read(rollouts)
        sums = np.zeros((len(prompts), rollouts.num_responses))
        has_score = np.zeros(sums.shape, bool)
        failures: dict[int, str] = {}
        for path, weight in self._weights:
            # A prompt that one function fails to score has no score.
            pending = [p for p in range(len(prompts)) if p not in failures]
            arguments = [_arguments(prompts[p]) for p in pending]
            for p, result in zip(pending, call_for_prompts(self._functions, path, arguments), strict=True):
                if cause := _cause(result):
                    failures[p] = f"{path} {cause} for {prompts[p]}"
                else:
                    values = np.array(result, dtype=np.float64)
                    is_number = ~np.isnan(values)
                    sums[p, is_number] += weight * values[is_number]
                    has_score[p] |= is_number
        scores = _as_float32(np.where(has_score, sums, np.nan))
        for p in np.flatnonzero(~np.isfinite(scores).all(axis=1)).tolist():
            failures.setdefault(p, f"{_unscored(scores[p])} for {prompts[p]}")
        scores[list(failures)] = np.nan
        return Scored(scores, failures)


def _arguments(prompt: PromptText) -> Arguments:
    """Return one element per response; values of the prompt are repeated."""
    k = len(prompt.completions)
    return {
        "prompts": [prompt.prompt] * k,
        "completions": prompt.completions,
        "completion_ids": prompt.completion_ids,
        **{name: [value] * k for name, value in prompt.columns.items()},
    }


def _cause(result: list[Value] | str) -> str | None:
    if isinstance(result, str):
        return result
    invalid = [(k, value) for k, value in enumerate(result) if isinstance(value, str)]
    return f"scored response {invalid[0][0]} with {invalid[0][1]}" if invalid else None


def _as_float32(scores: NDArray[np.float64]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # an overflow becomes inf, which is reported
        return scores.astype(np.float32)


def _unscored(scores: NDArray[np.float32]) -> str:
    if np.isinf(scores).any():
        return "the sum of reward_functions is too large"
    return f"no reward function had an opinion on response {int(np.isnan(scores).argmax())}"
