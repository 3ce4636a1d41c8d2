"""Losses that need no reference, and the likelihood term of the chosen response that some of them add."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mindspeed_dpo.algorithms.losses.pair_terms import PairTerms, margin, per_token
from mindspeed_dpo.algorithms.losses.sigmoid import smoothed_logistic
from mindspeed_dpo.config.settings.loss import LossConfig


def sft_loss(terms: PairTerms, settings: LossConfig) -> Tensor:
    """Negative log-probability of a chosen token, a mean over the tokens of a group of pairs: TRL's `sft`.

    Args:
        terms: `nll`.
        settings: Not read; the group of `nll` is `loss_group_size` pairs.

    Returns:
        Loss of each pair, [P] in the dtype of `nll`, in nats per token.
    """
    return terms.nll


def simpo_loss(terms: PairTerms, settings: LossConfig) -> Tensor:
    """SimPO, equation 6 of Meng et al. 2024 (arXiv:2405.14734), without a reference.

    With a the log-probability per token and z = beta (a_w - a_l - ratio): -(1 - e) log sigmoid(z) - e log sigmoid(-z).
    The paper's margin gamma is beta times the ratio.

    Args:
        terms: `logps`, `lengths` (0 counts as 1) and `beta`, the scale of the rewards per nat and token; typical 2
            to 2.5.
        settings: `dpo_label_smoothing` e, the probability in [0, 0.5) that a preference label is flipped, and
            `gamma_beta_ratio`, the target margin in nats per token.

    Returns:
        Loss of each pair, [P] in the dtype of the log-probabilities. Where both responses are equally likely per token
        it is ln(1 + exp(beta ratio)), for e = 0.
    """
    mean = per_token(terms.logps, terms.lengths)
    return smoothed_logistic(terms.beta * (margin(mean) - settings.gamma_beta_ratio), settings.dpo_label_smoothing)


def cpo_loss(terms: PairTerms, settings: LossConfig) -> Tensor:
    """CPO, equation 5 of Xu et al. 2024 (arXiv:2401.08417): preference without a reference, plus likelihood.

    With z = beta (lp_w - lp_l): -(1 - e) log sigmoid(z) - e log sigmoid(-z) + alpha nll.

    Args:
        terms: `logps` lp, `nll` over the tokens of the response only, and `beta`, the scale of the rewards per nat.
        settings: `dpo_label_smoothing` e, the probability in [0, 0.5) that a preference label is flipped, and
            `cpo_alpha` alpha, the weight of the likelihood.

    Returns:
        Loss of each pair, [P] in the dtype of the log-probabilities. Where both responses are equally likely it is
        ln 2 + alpha nll.
    """
    preference = smoothed_logistic(terms.beta * margin(terms.logps), settings.dpo_label_smoothing)
    return preference + settings.cpo_alpha * terms.nll


def orpo_loss(terms: PairTerms, settings: LossConfig) -> Tensor:
    """ORPO, equation 6 of Hong et al. 2024 (arXiv:2403.07691): likelihood, plus the ratio of the odds.

    With a the log-probability per token: nll - beta log sigmoid(a_w - a_l - [ln(1 - e^a_w) - ln(1 - e^a_l)]). TRL's
    nll includes the prompt; this one covers the response only, as in the paper.

    Args:
        terms: `logps`, `lengths` (0 counts as 1), `nll`, and `beta`, the weight of the odds ratio, the paper's lambda;
            typical 0.1.
        settings: Not read; the group of `nll` is `loss_group_size` pairs.

    Returns:
        Loss of each pair, [P] in the dtype of the log-probabilities. Where both responses are equally likely per token
        it is nll + beta ln 2.
    """
    mean = per_token(terms.logps, terms.lengths)
    return terms.nll - terms.beta * logsigmoid(margin(mean - _log1mexp(mean)))


def _log1mexp(mean: Tensor) -> Tensor:
    """ln(1 - e^a) for a <= 0, exact at both ends (Mächler 2012); a certain response keeps a finite value."""
    below = mean.clamp(max=-(torch.finfo(mean.dtype).tiny ** 0.5))
    near = below > -math.log(2)
    # Each branch sees only values that it can take: a gradient of infinity times 0 would be NaN.
    close = torch.log(-torch.expm1(below.where(near, -1.0)))
    far = torch.log1p(-torch.exp(below.where(~near, -1.0)))
    return close.where(near, far)
