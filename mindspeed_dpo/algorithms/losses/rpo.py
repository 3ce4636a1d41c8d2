"""Reward-aware preference optimisation (RPO): implicit rewards are to differ by as much as given ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mindspeed_dpo.algorithms.losses.pair_terms import PairTerms, margin
from mindspeed_dpo.config.settings.loss import LossConfig


def rpo_bwd_kl_loss(terms: PairTerms, settings: LossConfig) -> Tensor:
    """RPO with the distance of Nemotron-4 340B, section 3.3.2 of NVIDIA 2024 (arXiv:2406.11704).

    With z = beta (r_w - r_l) and target m: sigmoid(m) (log sigmoid(m) - log sigmoid(z)) + sigmoid(-m) (log sigmoid(-m)
    - log sigmoid(-z)), the divergence of the preference that z predicts from the one that m states. Its derivative by z
    is sigmoid(z) - sigmoid(m).

    Args:
        terms: `ratios` r, `targets` m and `beta`.
        settings: Not read.

    Returns:
        Loss of each pair, [P] in the dtype of the ratios, at least 0. Where policy equals reference it is the
        divergence from a coin, and 0 where m is 0 too.
    """
    z, target = _margin_and_target(terms)
    return _bernoulli_kl(target, z)


def rpo_fwd_kl_loss(terms: PairTerms, settings: LossConfig) -> Tensor:
    """RPO with the other direction of the divergence, as NeMo-Aligner's `rpo_fwd_kl`.

    sigmoid(z) (log sigmoid(z) - log sigmoid(m)) + sigmoid(-z) (log sigmoid(-z) - log sigmoid(-m)), whose derivative by
    z is sigmoid(z) sigmoid(-z) (z - m).

    Args:
        terms: `ratios` r, `targets` m and `beta`.
        settings: Not read.

    Returns:
        Loss of each pair, [P] in the dtype of the ratios, at least 0.
    """
    z, target = _margin_and_target(terms)
    return _bernoulli_kl(z, target)


def rpo_sq_loss(terms: PairTerms, settings: LossConfig) -> Tensor:
    """RPO with the squared distance (z - m)^2, as NeMo-Aligner's `rpo_sq`.

    Args:
        terms: `ratios` r, `targets` m and `beta`.
        settings: Not read.

    Returns:
        Loss of each pair, [P] in the dtype of the ratios. Where policy equals reference it is m^2.
    """
    z, target = _margin_and_target(terms)
    return (z - target).square()


def _margin_and_target(terms: PairTerms) -> tuple[Tensor, Tensor]:
    """Return the margin z of the implicit rewards and the target of each pair, [P], unitless.

    Raises:
        ValueError: There are no targets.
    """
    if terms.targets is None:
        raise ValueError("the losses rpo_* need a target for each pair, which margin_column or online the scores give")
    z = terms.beta * margin(terms.ratios)
    return z, terms.targets.to(z.dtype)


def _bernoulli_kl(logits: Tensor, others: Tensor) -> Tensor:
    """Kullback-Leibler divergence [P] of Bernoulli distributions from others, by their logits [P]."""
    differences = [
        torch.sigmoid(sign * logits) * (logsigmoid(sign * logits) - logsigmoid(sign * others)) for sign in (1, -1)
    ]
    return differences[0] + differences[1]
