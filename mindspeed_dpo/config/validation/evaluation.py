"""What must hold between the settings of evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator

from mindspeed_dpo.config.legacy.aliases import did_you_mean
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.config.settings.evaluation import EVALUATION_METRICS, HOLD_OUT, TOKEN_STATISTICS
from mindspeed_dpo.config.validation.violation import Violation


def check_evaluation(run: RunConfig) -> Iterator[Violation]:
    """See that an evaluation has something to measure, and that nothing asks for one that never comes."""
    loop, shares = run.loop, split_shares(run.actor.data.split)
    if shares is None:
        yield Violation(("split",), "must be one to three shares with a positive first, such as 98,2,0")
        return
    if loop.evaluates and not (shares[1] or loop.eval_data_path):
        yield Violation(
            ("eval_interval", "split", "eval_iters", "eval_data_path"),
            f"asks for evaluation, but split={run.actor.data.split} keeps no rows for it; "
            "use for example split=98,2,0, name eval_data_path, or set eval_interval=null",
        )
    if not loop.evaluates:
        for key in ("eval_data_path", "eval_at_start", "best_metric"):
            if getattr(loop, key):
                because = (key, "eval_interval", "eval_iters")
                yield Violation(because, "has no effect without eval_interval; set it, e.g. to 100")
    yield from _best(run)


def evaluation_sets(run: RunConfig) -> tuple[str, ...]:
    """Names of the sets that are evaluated; where there is one only, its name is in no metric."""
    shares = split_shares(run.actor.data.split)
    held_out = (HOLD_OUT,) if shares and shares[1] else ()
    return (*held_out, *(run.loop.eval_data_path or ()))


def evaluation_metrics(run: RunConfig) -> list[str]:
    """Names of all metrics that an evaluation of the run has."""
    sets, loss = evaluation_sets(run), run.actor.loss
    terms = [f"loss/{name}" for name in loss.terms] if len(loss.terms) > 1 else []
    names = (*EVALUATION_METRICS, *(TOKEN_STATISTICS if run.loop.log_token_statistics else ()), *terms)
    prefixes = ["eval/"] if len(sets) == 1 else [f"eval/{name}/" for name in sets]
    return [prefix + name for prefix in prefixes for name in names]


def _best(run: RunConfig) -> Iterator[Violation]:
    loop = run.loop
    if loop.best_metric is None:
        for key in ("best_metric_mode", "early_stop_patience", "early_stop_min_delta"):
            if getattr(loop, key):
                yield Violation((key, "best_metric"), "needs best_metric, e.g. eval/loss")
        return
    known = evaluation_metrics(run)
    if loop.best_metric not in known and known:
        near = did_you_mean(loop.best_metric, known) or f"; choose for example {known[0]}"
        because = ("best_metric", "eval_data_path", "split", "log_token_statistics")
        yield Violation(because, f"is no metric of an evaluation{near}")
    if loop.early_stop_min_delta and loop.early_stop_patience is None:
        both = ("early_stop_min_delta", "early_stop_patience")
        yield Violation(both, "has no effect without early_stop_patience; set it, e.g. to 3")


def split_shares(text: str) -> tuple[float, float, float] | None:
    """The three proportions of `100,0,0`, absent ones 0; None where the text says something else."""
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        return None
    if len(shares) > 3 or shares[0] <= 0 or not all(0 <= share < math.inf for share in shares):
        return None
    first, second, third = (*shares, 0.0, 0.0)[:3]
    return first, second, third
