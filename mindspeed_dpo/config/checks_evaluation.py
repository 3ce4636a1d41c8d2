"""What must hold between the settings of evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.config.wrong import Wrong


def check_evaluation(run: RunConfig) -> Iterator[Wrong]:
    """See that an evaluation has something to measure, and that nothing asks for one that never comes."""
    loop, shares = run.loop, split_shares(run.actor.data.split)
    if shares is None:
        yield Wrong(("split",), "must be one to three shares with a positive first, such as 98,2,0")
        return
    if loop.evaluates and not (shares[1] or loop.eval_data_path):
        yield Wrong(
            ("eval_interval", "split", "eval_iters", "eval_data_path"),
            f"asks for evaluation, but split={run.actor.data.split} keeps no rows for it; "
            "use for example split=98,2,0, name eval_data_path, or set eval_interval=null",
        )
    if not loop.evaluates:
        for key in ("eval_data_path", "eval_at_start"):
            if getattr(loop, key):
                yield Wrong(
                    (key, "eval_interval", "eval_iters"), "has no effect without eval_interval; set it, e.g. 100"
                )


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
