"""The check of loss and gradient norm for NaN and infinity, which ends a run before a diverged step is saved."""

from __future__ import annotations

import math
from collections.abc import Mapping


class DivergenceError(ValueError):
    """Loss or gradient norm is not finite."""


def check_finite(step: int, metrics: Mapping[str, float]) -> None:
    """Check the metrics of a step, before its weights are saved.

    Raises:
        DivergenceError: Loss or gradient norm is not finite.
    """
    broken = [f"{name} is {metrics[name]}" for name in ("loss", "grad_norm") if not math.isfinite(metrics[name])]
    if broken:
        raise DivergenceError(
            f"step {step + 1}: {' and '.join(broken)}; the weights were not updated, and the newest checkpoint is that "
            f"of step {step}. Lower lr or clip_grad, or look for a malformed row in the data"
        )
