"""TRL 1.16's losses in plain torch, one value per pair (docs/numerics.md has them as formulas).

Here `policy` and `reference` are (chosen, rejected) log-probabilities of the responses, summed over their tokens, nats;
`lengths` are the numbers of tokens of the responses. All are [pairs].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

logsigmoid = F.logsigmoid


@dataclass(frozen=True)
class Values:
    """What the losses of a micro-batch are computed from."""

    policy: tuple[Tensor, Tensor]
    reference: tuple[Tensor, Tensor]
    lengths: tuple[Tensor, Tensor]
    options: dict[str, Any]

    @property
    def beta(self) -> float:
        return float(self.options["beta"])

    @property
    def smoothing(self) -> float:
        return float(self.options["label_smoothing"])

    @property
    def ratios(self) -> tuple[Tensor, Tensor]:
        return self.policy[0] - self.reference[0], self.policy[1] - self.reference[1]

    @property
    def scores(self) -> tuple[Tensor, Tensor]:
        """The log-ratios behind the f-divergence."""
        chosen, rejected = (divergence(ratio, self.options) for ratio in self.ratios)
        return chosen, rejected

    @property
    def z(self) -> Tensor:
        chosen, rejected = self.scores
        return self.beta * (chosen - rejected)

    @property
    def z_per_token(self) -> Tensor:
        (chosen, rejected), (long, short) = self.scores, self.lengths
        return chosen / long.clamp(min=1) - rejected / short.clamp(min=1)


def divergence(ratio: Tensor, options: dict[str, Any]) -> Tensor:
    """What an f-divergence makes of a log-ratio."""
    kind, alpha = options["f_divergence_type"], options["f_alpha_divergence_coef"]
    if kind == "forward_kl":
        return 1 - torch.exp(-ratio)
    if kind == "js_divergence":
        return math.log(2) + logsigmoid(ratio)
    if kind == "alpha_divergence" and abs(alpha - 1) >= 1e-6:
        return (torch.exp(torch.clamp((alpha - 1) * ratio, max=80.0)) - 1) / (alpha - 1)
    return ratio


def _exo_pair(v: Values) -> Tensor:
    z, e = v.z, v.smoothing
    return torch.sigmoid(z) * (logsigmoid(z) - math.log1p(-e)) + torch.sigmoid(-z) * (logsigmoid(-z) - math.log(e))


def _nca_pair(v: Values) -> Tensor:
    chosen, rejected = (v.beta * ratio for ratio in v.ratios)
    return -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)


def _robust(v: Values) -> Tensor:
    e = v.smoothing
    return (-(1 - e) * logsigmoid(v.z) + e * logsigmoid(-v.z)) / (1 - 2 * e)


def _bco_pair(v: Values) -> Tensor:
    chosen, rejected = (v.beta * ratio for ratio in v.ratios)
    return -logsigmoid(chosen) - logsigmoid(-rejected)


def _sppo_hard(v: Values) -> Tensor:
    chosen, rejected = v.ratios
    return (chosen - 0.5 / v.beta) ** 2 + (rejected + 0.5 / v.beta) ** 2


def _aot(v: Values) -> Tensor:
    return _sorted(v, v.policy[0] - v.policy[1], v.reference[0] - v.reference[1])


def _aot_unpaired(v: Values) -> Tensor:
    return _sorted(v, *v.ratios)


def _sorted(v: Values, upper: Tensor, lower: Tensor) -> Tensor:
    """Sorted within the micro-batch."""
    y = v.beta * (upper.sort(0).values - lower.sort(0).values)
    return -(1 - v.smoothing) * logsigmoid(y) - v.smoothing * logsigmoid(-y)


def _apo_zero(v: Values) -> Tensor:
    chosen, rejected = (v.beta * ratio for ratio in v.ratios)
    return 1 - torch.sigmoid(chosen) + torch.sigmoid(rejected)


def _apo_down(v: Values) -> Tensor:
    chosen, rejected = v.ratios
    return torch.sigmoid(v.beta * chosen) + 1 - torch.sigmoid(v.beta * (chosen - rejected))


def _discopop(v: Values) -> Tensor:
    mix = torch.sigmoid(v.z / v.options["discopop_tau"])
    return -logsigmoid(v.z) * (1 - mix) + torch.exp(-v.z) * mix


PAIR_LOSSES: dict[str, Callable[[Values], Tensor]] = {
    "sigmoid": lambda v: -logsigmoid(v.z),  # label smoothing has no effect
    "hinge": lambda v: torch.relu(1 - v.z),
    "ipo": lambda v: (v.z_per_token - 1 / (2 * v.beta)) ** 2,
    "sigmoid_norm": lambda v: -logsigmoid(v.beta * v.z_per_token),
    "exo_pair": _exo_pair,
    "nca_pair": _nca_pair,
    "robust": _robust,
    "bco_pair": _bco_pair,
    "sppo_hard": _sppo_hard,
    "aot": _aot,
    "aot_unpaired": _aot_unpaired,
    "apo_zero": _apo_zero,
    "apo_down": _apo_down,
    "discopop": _discopop,
}
"""By the loss type; `sft` is not among them, as it needs the log-probabilities of single tokens."""
