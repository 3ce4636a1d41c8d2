"""Rules about evaluation, and the sets and metrics that it has."""

from __future__ import annotations

import math
from collections.abc import Iterator

from mindspeed_dpo.config.issues import Violation
from mindspeed_dpo.config.name_suggestions import did_you_mean
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.config.settings.evaluation import (
    EVALUATION_METRICS,
    HOLD_OUT,
    ONLINE_METRICS,
    REWARD_MODEL_METRICS,
    TOKEN_STATISTICS,
)


def check_evaluation(run: RunConfig) -> Iterator[Violation]:
    """Check that an evaluation has data, and that settings of evaluation are set only together with one."""
    loop, shares = run.loop, split_shares(run.actor.data.split)
    if shares is None:
        yield Violation(("split",), "must be one to three shares, the first of which is positive, such as 98,2,0")
        return
    if loop.evaluates and not (shares[1] or loop.eval_data_path):
        yield Violation(
            ("eval_interval", "split", "eval_iters", "eval_data_path"),
            f"enables evaluation, but split={run.actor.data.split} has no rows for it; "
            "set for example split=98,2,0, eval_data_path, or eval_interval=null",
        )
    if not loop.evaluates:
        for key in ("eval_data_path", "eval_at_start", "best_metric"):
            if getattr(loop, key):
                yield Violation(
                    (key, "eval_interval", "eval_iters"), "has no effect without eval_interval; set it, e.g. to 100"
                )
    yield from _check_best_metric(run)


def evaluation_sets(run: RunConfig) -> tuple[str, ...]:
    """Return the names of the evaluation sets; with a single set, metrics do not contain its name."""
    shares = split_shares(run.actor.data.split)
    held_out = (HOLD_OUT,) if shares and shares[1] else ()
    return (*held_out, *(run.loop.eval_data_path or ()))


def evaluation_metrics(run: RunConfig) -> list[str]:
    """Return the names of all metrics of an evaluation, such as `eval/loss`."""
    sets = evaluation_sets(run)
    prefixes = ["eval/"] if len(sets) == 1 else [f"eval/{name}/" for name in sets]
    return [prefix + name for prefix in prefixes for name in _metrics_of_set(run)]


def _metrics_of_set(run: RunConfig) -> list[str]:
    if run.is_online:
        return [*ONLINE_METRICS]
    loss = run.actor.loss
    terms = run.actor.reward_model.terms if run.trains_reward_model else loss.terms
    names = [*(REWARD_MODEL_METRICS if run.trains_reward_model else EVALUATION_METRICS)]
    if run.loop.log_token_statistics and not run.trains_reward_model:
        names += TOKEN_STATISTICS
    if len(terms) > 1:
        names += [f"loss/{name}" for name in terms]
    return names


def _check_best_metric(run: RunConfig) -> Iterator[Violation]:
    loop = run.loop
    if loop.best_metric is None:
        for key in ("best_metric_mode", "early_stop_patience", "early_stop_min_delta"):
            if getattr(loop, key):
                yield Violation((key, "best_metric"), f"requires best_metric, e.g. eval/{_metrics_of_set(run)[0]}")
        return
    metrics = evaluation_metrics(run)
    if loop.best_metric not in metrics and metrics:
        hint = did_you_mean(loop.best_metric, metrics) or f"; choose for example {metrics[0]}"
        keys = ("best_metric", "eval_data_path", "split", "log_token_statistics")
        yield Violation(keys, f"is not an evaluation metric of this run{hint}")
    if loop.early_stop_min_delta and loop.early_stop_patience is None:
        yield Violation(
            ("early_stop_min_delta", "early_stop_patience"),
            "has no effect without early_stop_patience; set it, e.g. to 3",
        )


def split_shares(text: str) -> tuple[float, float, float] | None:
    """Parse the three shares of a split such as `98,2,0`; absent shares are 0. Returns None for an invalid text."""
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        return None
    if len(shares) > 3 or shares[0] <= 0 or not all(0 <= share < math.inf for share in shares):
        return None
    first, second, third = (*shares, 0.0, 0.0)[:3]
    return first, second, third
