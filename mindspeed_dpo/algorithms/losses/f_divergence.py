"""f-divergences: scores that replace the log-ratio where the divergence from the reference is not reverse KL.

Equation 8 of Wang et al. 2023 (arXiv:2309.16240). Constants are those of TRL 1.16: they cancel between chosen and
rejected, but not where each score is divided by its own length.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import logsigmoid

from mindspeed_dpo.algorithms.losses.pair_terms import bounded_exp

REVERSE_KL = "reverse_kl"


def _forward_kl(ratios: Tensor, alpha: float) -> Tensor:
    return 1 - bounded_exp(-ratios)


def _js(ratios: Tensor, alpha: float) -> Tensor:
    return math.log(2) + logsigmoid(ratios)


def _alpha(ratios: Tensor, alpha: float) -> Tensor:
    if abs(alpha - 1) < 1e-6:
        return ratios
    return (bounded_exp((alpha - 1) * ratios) - 1) / (alpha - 1)


DIVERGENCES: dict[str, Callable[[Tensor, float], Tensor]] = {
    REVERSE_KL: lambda ratios, alpha: ratios,
    "forward_kl": _forward_kl,
    "js_divergence": _js,
    "alpha_divergence": _alpha,
}


def divergence_scores(ratios: Tensor, divergence: str, alpha: float) -> Tensor:
    """Apply an f-divergence to log-ratios: scores [P, 2] of ratios [P, 2], in the ratios' dtype.

    Args:
        ratios: [P, 2] float32 or float64, log-ratio of policy to reference per response, in nats.
        divergence: `reverse_kl` r; `forward_kl` 1 - e^-r; `js_divergence` ln 2 + log sigmoid(r); `alpha_divergence`
            (e^((a - 1) r) - 1) / (a - 1).
        alpha: a of the last; 1 is reverse KL, 0 forward KL.
    """
    return DIVERGENCES[divergence](ratios, alpha)
