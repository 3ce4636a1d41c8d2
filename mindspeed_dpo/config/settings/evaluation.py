"""Evaluation on held-out pairs or prompts: schedule, data, metrics, and the choice of the best checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mindspeed_dpo.config.settings.setting import ValueCheck, at_least, setting

HOLD_OUT, UNNAMED_SET = "split", "given"
"""Names of the two evaluation sets that the user does not name: the second share of `split`, and a single path."""

EVALUATION_METRICS = (
    *("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"),
    *("logps/chosen", "logps/rejected"),
)
"""Metrics of every evaluation of a policy."""
REWARD_MODEL_METRICS = (
    *("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "rewards/brier"),
    "rewards/ece",
)
"""Metrics of every evaluation of a reward model."""
ONLINE_METRICS = ("win_rate", "reward/score/mean", "response_length/mean", "val/contain_eos_token")
"""Metrics of every evaluation of a policy that trains on its own responses."""
TOKEN_STATISTICS = ("entropy", "mean_token_accuracy", "nll", "logits/chosen", "logits/rejected")
"""Further metrics of an evaluation with log_token_statistics."""


def default_best_mode(metric: str) -> str:
    """Return `min` for metrics whose smaller values are better, judged by the metric's name, else `max`."""
    parts = metric.split("/")
    is_cost = "loss" in parts or parts[-1] in ("nll", "rejected", "entropy", "brier", "ece")
    return "min" if is_cost else "max"


_RESERVED = {name.split("/")[0] for name in (*EVALUATION_METRICS, *TOKEN_STATISTICS)} | {HOLD_OUT}
SET_NAMES = ValueCheck(
    lambda sets: all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) and name not in _RESERVED for name in sets),
    f"named with letters, digits, _, - and ., and none of {', '.join(sorted(_RESERVED))}",
)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Settings of evaluation on pairs, or online on prompts, that are not trained on."""

    eval_interval: int | None = setting(
        None,
        help="Steps between evaluations on the second share of `split` and on eval_data_path; the last step is always "
        "evaluated. Null or 0 disables evaluation.",
        unit="steps",
        check=at_least(0),
        shared=True,
    )
    eval_iters: int = setting(
        100,
        help="Maximum number of batches of global_batch_size pairs or prompts per set and evaluation; 0 disables "
        "evaluation.",
        unit="batches",
        check=at_least(0),
        shared=True,
    )
    eval_data_path: Mapping[str, str] | None = setting(
        None,
        help="Evaluation sets, preprocessed like data_path: one path, or a path for each name, as "
        "`{chat: a, code: b}`.",
        check=SET_NAMES,
        shared=True,
        is_path=True,
    )
    eval_at_start: bool = setting(
        False, help="Also evaluate before the first step; the result is logged as step 0.", shared=True
    )

    best_metric: str | None = setting(
        None,
        help="Evaluation metric that selects the best checkpoint, such as eval/loss, or online eval/win_rate. The best "
        "checkpoint is saved, named in best.json and never deleted; null selects none.",
        shared=True,
    )
    best_metric_mode: str | None = setting(
        derived="min for loss, nll, entropy, brier and rejected metrics, else max",
        help="Whether smaller or larger values of best_metric are better.",
        choices=("min", "max"),
        shared=True,
    )
    early_stop_patience: int | None = setting(
        None,
        help="End the run after this many consecutive evaluations without improvement of best_metric; null disables "
        "early stopping.",
        unit="evaluations",
        check=at_least(1),
        shared=True,
    )
    early_stop_min_delta: float = setting(
        0.0,
        help="An evaluation improves on the last improvement if its best_metric is better by more than this.",
        check=at_least(0),
        shared=True,
    )

    @property
    def evaluates(self) -> bool:
        """Whether the run has evaluations."""
        return bool(self.eval_interval and self.eval_iters)
