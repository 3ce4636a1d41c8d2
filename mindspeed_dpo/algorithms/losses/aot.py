"""Alignment by optimal transport (AOT): distributions are compared, so each pair is matched with another of the step.

Sorting runs over the entire step (or groups of its pairs), of which a micro-batch holds only a part. The matching is
therefore computed beforehand, from log-probabilities without gradient (`*_partners`). Given the partners, the loss is
one value per pair again, with the gradient of the sorted form.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mindspeed_dpo.algorithms.losses.pair_terms import PairTerms, margin
from mindspeed_dpo.algorithms.losses.sigmoid import smoothed_logistic
from mindspeed_dpo.config.settings.loss import LossConfig


def aot_loss(terms: PairTerms, settings: LossConfig) -> Tensor:
    """AOT for paired data, equation 8 of Melnyk et al. 2024 (arXiv:2406.05882).

    With y = beta (sort(lp_w - lp_l) - sort(rp_w - rp_l)): -(1 - e) log sigmoid(y) - e log sigmoid(-y).

    Args:
        terms: `logps` lp, `partners["aot"]` of `aot_partners` for the sorted reference rp, and `beta`.
        settings: `dpo_label_smoothing` e, the probability in [0, 0.5) that a preference label is flipped.

    Returns:
        Loss of each pair, [P] in the dtype of the log-probabilities. Where policy equals reference it is ln 2.
    """
    partners = terms.partners["aot"]
    return smoothed_logistic(terms.beta * (margin(terms.logps) - partners[:, 0]), settings.dpo_label_smoothing)


def aot_unpaired_loss(terms: PairTerms, settings: LossConfig) -> Tensor:
    """AOT for unpaired data, equation 10 of Melnyk et al. 2024 (arXiv:2406.05882).

    With y = beta (sort(r_w) - sort(r_l)): -(1 - e) log sigmoid(y) - e log sigmoid(-y). A pair's loss is that of its
    chosen response; its rejected response adds the gradient, but not the value, of the rank it was sorted to.

    Args:
        terms: `ratios` r, `partners["aot_unpaired"]` of `aot_unpaired_partners`, and `beta`.
        settings: `dpo_label_smoothing` e, the probability in [0, 0.5) that a preference label is flipped.

    Returns:
        Loss of each pair, [P] in the dtype of the ratios. Where policy equals reference it is ln 2.
    """
    own, partners = terms.ratios, terms.partners["aot_unpaired"]
    chosen = smoothed_logistic(terms.beta * (own[:, 0] - partners[:, 0]), settings.dpo_label_smoothing)
    rejected = smoothed_logistic(terms.beta * (partners[:, 1] - own[:, 1]), settings.dpo_label_smoothing)
    return chosen + rejected - rejected.detach()


def aot_partners(logps: Tensor, ref_logps: Tensor, group: int) -> Tensor:
    """Match each pair's policy margin with the reference margin of equal rank.

    Args:
        logps: [N, 2] float32 or float64, the policy's log-probabilities of all pairs of a step, in nats, no gradient.
        ref_logps: [N, 2], the same from the reference.
        group: Number of consecutive pairs that are sorted together.

    Returns:
        [N, 2], column 0 the matched reference margin in nats, column 1 zeros.
    """
    partners = _by_group(_of_equal_rank, group, margin(logps), margin(ref_logps))
    return torch.stack([partners, torch.zeros_like(partners)], 1)


def aot_unpaired_partners(logps: Tensor, ref_logps: Tensor, group: int) -> Tensor:
    """Match each response's log-ratio with that of equal rank among the responses of the other kind.

    Args:
        logps: [N, 2] float32 or float64, the policy's log-probabilities of all pairs of a step, in nats, no gradient.
        ref_logps: [N, 2], the same from the reference.
        group: Number of consecutive pairs that are sorted together.

    Returns:
        [N, 2] matched log-ratios in nats: for chosen responses those of rejected ones, and vice versa.
    """
    chosen, rejected = (logps - ref_logps).unbind(1)
    pairs = [(chosen, rejected), (rejected, chosen)]
    return torch.stack([_by_group(_of_equal_rank, group, own, other) for own, other in pairs], 1)


def _of_equal_rank(own: Tensor, other: Tensor) -> Tensor:
    """For each of `own` [n] the value of `other` [n] that has its rank."""
    return torch.empty_like(own).scatter_(0, own.argsort(), other.sort().values)


def _by_group(match: Callable[[Tensor, Tensor], Tensor], group: int, own: Tensor, other: Tensor) -> Tensor:
    return torch.cat([match(*part) for part in zip(own.split(group), other.split(group), strict=True)])
