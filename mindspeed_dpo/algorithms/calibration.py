"""The calibration of a reward model: whether it is right as often as the preferences that it predicts say.

The expected calibration error of Guo et al. 2017 (arXiv:1706.04599, equation 3), for the more likely of two responses:
|share of right predictions - mean predicted probability| of each bin of probabilities, weighted by its share of the
pairs. What is within the bars is a mean over pairs, which any split of the pairs gives alike.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mindspeed_dpo.observability.metric_names import CALIBRATION_PREFIX

NUM_BINS = 10
"""Bins of equal width from 0.5 to 1, the probabilities of the more likely response."""
CALIBRATION_ERROR = "rewards/ece"


def calibration_gaps(margins: Tensor) -> dict[str, Tensor]:
    """Return by bin what pairs add to the calibration error: right or not, less the predicted probability.

    Args:
        margins: [...] float32 or float64, score of the better less score of the worse response. At 0 the prediction
            counts as half right.

    Returns:
        Name of the bin -> [...] in the dtype of the margins, 0 for pairs of other bins.
    """
    probabilities = torch.sigmoid(margins.abs())
    gaps = (margins.sign() + 1) / 2 - probabilities
    bins = ((probabilities - 0.5) * (2 * NUM_BINS)).long().clamp(max=NUM_BINS - 1)
    zero = torch.zeros_like(gaps)
    return {f"{CALIBRATION_PREFIX}{number}": gaps.where(bins == number, zero) for number in range(NUM_BINS)}


def with_calibration_error(means: Mapping[str, float]) -> dict[str, float]:
    """Replace the means of the gaps of all bins by the calibration error; without them, return the metrics as they are.

    Args:
        means: Metrics averaged over all pairs.
    """
    gaps = [abs(value) for name, value in means.items() if name.startswith(CALIBRATION_PREFIX)]
    others = {name: value for name, value in means.items() if not name.startswith(CALIBRATION_PREFIX)}
    return others | ({CALIBRATION_ERROR: sum(gaps)} if gaps else {})
