"""The objective of Nash-MD: a policy gradient of the preference, regularised towards the reference.

After Munos et al. 2023 (arXiv:2312.00886). The policy competes with a mixture of itself and the reference; the
mixture's response only determines how good the policy's response is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mindspeed_dpo.algorithms.objective import PairLosses, PairValues
from mindspeed_dpo.device.ops import total
from mindspeed_dpo.observability.metric_sums import MetricSums


def advantages(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the advantage P - 1/2 of the policy's response, with P = sigmoid(its score - the other's score).

    Args:
        scores: [N, 2] float32 rewards, the policy's first.

    Returns:
        [N] float32 in [-1/2, 1/2].
    """
    gap = (scores[:, 0].astype(np.float64) - scores[:, 1]) / 2
    # sigmoid(x) - 1/2 is tanh(x / 2) / 2, which does not overflow.
    values: NDArray[np.float32] = (np.tanh(gap) / 2).astype(np.float32)
    return values


@dataclass(frozen=True)
class NashObjective:
    """Nash-MD's loss of a response; called like `PreferenceObjective`.

    L = beta sum_t [lp_t - rp_t] lp_t - (P - 1/2) sum_t lp_t, with the log-probabilities lp_t of the policy and rp_t of
    the reference; the bracket has no gradient.

    Example:
        NashObjective(beta=0.1)

    Attributes:
        beta: Strength of the regularisation towards the reference in this step, per nat.
    """

    beta: float

    def __call__(self, values: PairValues) -> PairLosses:
        """Compute the losses and metric sums of P responses of the policy; all values are [P, 1]."""
        assert values.kl_surrogate is not None and values.logp_weights is not None, (
            "Nash-MD needs per-token log-probabilities and scores"
        )
        weights = torch.ones_like(values.logps[:, 0]) if values.weights is None else values.weights
        terms = {
            # 0 * NaN is NaN, so padding is masked before the product with the weights.
            name: term[:, 0].where(weights != 0, 0.0)
            for name, term in (("kl", values.kl_surrogate), ("score", values.logps * values.logp_weights))
        }
        losses = self.beta * terms["kl"] - terms["score"]
        return PairLosses(losses * weights, _sums(losses, terms, weights))


def _sums(losses: Tensor, terms: dict[str, Tensor], weights: Tensor) -> MetricSums:
    values = {"loss": losses, **{f"loss/{name}": term for name, term in terms.items()}}
    of_pairs = torch.stack([value.detach() for value in values.values()], 1)
    return MetricSums.of(values, total(of_pairs * weights[:, None]), total(weights).expand(len(values)))
