"""Alignment by optimal transport: distributions are compared, so a pair's partner is found among all pairs.

Sorting is over a whole step (or groups of its pairs), of which a micro-batch sees a part. So who is compared with whom
is settled beforehand, from log-probabilities without gradient (`*_partners`); given the partners, the loss is again
one value per pair, with the gradient that the sorted form has.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mindspeed_dpo.algorithms.losses.ratios import margin
from mindspeed_dpo.algorithms.losses.sigmoid import smoothed_logistic


def aot_loss(logps: Tensor, *, beta: float, label_smoothing: float, aot_partners: Tensor) -> Tensor:
    """AOT for paired data, equation 8 of Melnyk et al. 2024 (arXiv:2406.05882).

    With y = beta (sort(lp_w - lp_l) - sort(rp_w - rp_l)): -(1 - e) log sigmoid(y) - e log sigmoid(-y).

    Args:
        logps: [P, 2] float32, summed response log-probabilities of the policy, in nats.
        beta: Strength of the pull towards the reference, per nat.
        label_smoothing: e, probability in [0, 0.5) that a preference label is flipped.
        aot_partners: [P, 2] of `aot_partners`; column 0 is used.

    Returns:
        Loss [P]. Where policy equals reference every loss is ln 2.

    Raises:
        ValueError: The log-probabilities are not [P, 2].
    """
    return smoothed_logistic(beta * (margin(logps) - aot_partners[:, 0]), label_smoothing)


def aot_unpaired_loss(ratios: Tensor, *, beta: float, label_smoothing: float, aot_unpaired_partners: Tensor) -> Tensor:
    """AOT for unpaired data, equation 10 of Melnyk et al. 2024 (arXiv:2406.05882).

    With y = beta (sort(r_w) - sort(r_l)): -(1 - e) log sigmoid(y) - e log sigmoid(-y). A pair's loss is that of its
    chosen response; its rejected response adds the gradient, not the value, of the place where it was sorted to.

    Args:
        ratios: [P, 2] float32, log-ratio of policy to reference per response, in nats.
        beta: Strength of the pull towards the reference, per nat.
        label_smoothing: e, probability in [0, 0.5) that a preference label is flipped.
        aot_unpaired_partners: [P, 2] of `aot_unpaired_partners`.

    Returns:
        Loss [P]. Where policy equals reference every loss is ln 2.

    Raises:
        ValueError: The ratios are not [P, 2].
    """
    own, partners = ratios, aot_unpaired_partners
    chosen = smoothed_logistic(beta * (own[:, 0] - partners[:, 0]), label_smoothing)
    rejected = smoothed_logistic(beta * (partners[:, 1] - own[:, 1]), label_smoothing)
    return chosen + rejected - rejected.detach()


def aot_partners(logps: Tensor, ref_logps: Tensor, group: int) -> Tensor:
    """What each pair's policy margin is compared with: [N, 2], column 0 the reference margin of equal rank.

    Args:
        logps: [N, 2] of all pairs of a step, without gradient.
        ref_logps: [N, 2] of the reference.
        group: Pairs that are sorted together; they follow each other.
    """
    partners = _by_group(_of_equal_rank, group, margin(logps), margin(ref_logps))
    return torch.stack([partners, torch.zeros_like(partners)], 1)


def aot_unpaired_partners(logps: Tensor, ref_logps: Tensor, group: int) -> Tensor:
    """What each response's log-ratio is compared with: that of equal rank among the others' responses, [N, 2]."""
    chosen, rejected = (logps - ref_logps).unbind(1)
    pairs = [(chosen, rejected), (rejected, chosen)]
    return torch.stack([_by_group(_of_equal_rank, group, own, other) for own, other in pairs], 1)


def _of_equal_rank(own: Tensor, other: Tensor) -> Tensor:
    """For each of `own` [n] the value of `other` [n] that has its rank."""
    return torch.empty_like(own).scatter_(0, own.argsort(), other.sort().values)


def _by_group(match: Callable[[Tensor, Tensor], Tensor], group: int, own: Tensor, other: Tensor) -> Tensor:
    return torch.cat([match(*part) for part in zip(own.split(group), other.split(group), strict=True)])
