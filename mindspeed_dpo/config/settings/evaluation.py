"""When and on what a run is evaluated. What an evaluation is called, and which metrics it has, is settled here too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mindspeed_dpo.config.settings.field import Check, at_least, setting

HOLD_OUT, GIVEN = "split", "given"
"""Names of the evaluation sets that have none of their own: the second share of `split`, and a single path."""

EVALUATION_METRICS = (
    *("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"),
    *("logps/chosen", "logps/rejected"),
)
"""Metrics of every evaluation, and then, with log_token_statistics:"""
TOKEN_STATISTICS = ("entropy", "mean_token_accuracy", "nll", "logits/chosen", "logits/rejected")


def best_mode(metric: str) -> str:
    """Whether smaller or larger values of an evaluation's metric are better, as far as its name tells."""
    parts = metric.split("/")
    is_cost = "loss" in parts or parts[-1] in ("nll", "rejected", "entropy")
    return "min" if is_cost else "max"


_RESERVED = {name.split("/")[0] for name in (*EVALUATION_METRICS, *TOKEN_STATISTICS)} | {HOLD_OUT}
SET_NAMES = Check(
    lambda sets: all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) and name not in _RESERVED for name in sets),
    f"named with letters, digits, _, - and ., and none {', '.join(sorted(_RESERVED))}",
)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Measuring pairs that are not learned from."""

    eval_interval: int | None = setting(
        None,
        help="Steps between evaluations on the second share of `split` and on eval_data_path; null or 0 evaluates "
        "never. The last step is always evaluated.",
        unit="steps",
        check=at_least(0),
        shared=True,
    )
    eval_iters: int = setting(
        100,
        help="Most batches of global_batch_size pairs of each set in one evaluation; 0 evaluates never.",
        unit="batches",
        check=at_least(0),
        shared=True,
    )
    eval_data_path: Mapping[str, str] | None = setting(
        None,
        help="Sets to evaluate on, preprocessed like data_path: one path, or names with a path each, as "
        "`{chat: a, code: b}`.",
        check=SET_NAMES,
        shared=True,
    )
    eval_at_start: bool = setting(False, help="Evaluate also before the first step; logged as step 0.", shared=True)

    best_metric: str | None = setting(
        None,
        help="Metric of the evaluation by which a checkpoint is the best, such as eval/loss: it is saved, named in "
        "best.json, and never deleted.",
        shared=True,
    )
    best_metric_mode: str | None = setting(
        derived="min for losses, nll, entropy and what is rejected; else max",
        help="Whether the smallest or the largest best_metric is the best.",
        choices=("min", "max"),
        shared=True,
    )
    early_stop_patience: int | None = setting(
        None,
        help="Evaluations in a row without improvement of best_metric after which the run ends well; null never.",
        unit="evaluations",
        check=at_least(1),
        shared=True,
    )
    early_stop_min_delta: float = setting(
        0.0,
        help="An improvement must be more than this, compared with the last one that was, to count for patience.",
        check=at_least(0),
        shared=True,
    )

    @property
    def evaluates(self) -> bool:
        """Whether there are evaluations."""
        return bool(self.eval_interval and self.eval_iters)
