"""Losses without a reference, and the likelihood of the chosen response that some of them add.

`nll` is what the objective makes of it: per pair the chosen response's negative log-probability, scaled so that its
mean over the pairs of a group is the mean over that group's chosen tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mindspeed_dpo.algorithms.losses.ratios import margin, per_token
from mindspeed_dpo.algorithms.losses.sigmoid import smoothed_logistic


def sft_loss(nll: Tensor) -> Tensor:
    """Negative log-probability of a chosen token, a mean over the tokens of a group of pairs: TRL's `sft`.

    Args:
        nll: [P] float32, see above.

    Returns:
        Loss [P].
    """
    return nll


def simpo_loss(
    logps: Tensor, lengths: Tensor, *, beta: float, label_smoothing: float, gamma_beta_ratio: float
) -> Tensor:
    """SimPO, equation 6 of Meng et al. 2024 (arXiv:2405.14734), without a reference.

    With a the log-probability per token and z = beta (a_w - a_l - ratio): -(1 - e) log sigmoid(z) - e log sigmoid(-z).
    The paper's margin gamma is beta times the ratio.

    Args:
        logps: [P, 2] float32, summed response log-probabilities of the policy, in nats.
        lengths: [P, 2] response tokens, integers; 0 counts as 1.
        beta: Scale of the rewards per nat and token; typical 2 to 2.5.
        label_smoothing: e, probability in [0, 0.5) that a preference label is flipped.
        gamma_beta_ratio: Wanted margin in nats per token.

    Returns:
        Loss [P]. Where both responses are equally likely per token it is ln(1 + exp(beta ratio)), for e = 0.

    Raises:
        ValueError: The log-probabilities are not [P, 2], or the lengths are not alike.
    """
    return smoothed_logistic(beta * (margin(per_token(logps, lengths)) - gamma_beta_ratio), label_smoothing)


def cpo_loss(logps: Tensor, nll: Tensor, *, beta: float, label_smoothing: float, cpo_alpha: float) -> Tensor:
    """CPO, equation 5 of Xu et al. 2024 (arXiv:2401.08417): preference without a reference, plus likelihood.

    With z = beta (lp_w - lp_l): -(1 - e) log sigmoid(z) - e log sigmoid(-z) + alpha nll.

    Args:
        logps: [P, 2] float32, summed response log-probabilities of the policy, in nats.
        nll: [P] float32, see above; the tokens of the response only.
        beta: Scale of the rewards, per nat.
        label_smoothing: e, probability in [0, 0.5) that a preference label is flipped.
        cpo_alpha: Weight of the likelihood.

    Returns:
        Loss [P]. Where both responses are equally likely it is ln 2 + alpha nll.

    Raises:
        ValueError: The log-probabilities are not [P, 2].
    """
    return smoothed_logistic(beta * margin(logps), label_smoothing) + cpo_alpha * nll


def orpo_loss(logps: Tensor, lengths: Tensor, nll: Tensor, *, beta: float) -> Tensor:
    """ORPO, equation 6 of Hong et al. 2024 (arXiv:2403.07691): likelihood, plus the ratio of the odds.

    With a the log-probability per token: nll - beta log sigmoid(a_w - a_l - [ln(1 - e^a_w) - ln(1 - e^a_l)]). TRL's
    nll runs over the prompt too; this one over the response only, as in the paper.

    Args:
        logps: [P, 2] float32, summed response log-probabilities of the policy, in nats.
        lengths: [P, 2] response tokens, integers; 0 counts as 1.
        nll: [P] float32, see above.
        beta: Weight of the odds ratio, the paper's lambda; typical 0.1.

    Returns:
        Loss [P]. Where both responses are equally likely per token it is nll + beta ln 2.

    Raises:
        ValueError: The log-probabilities are not [P, 2], or the lengths are not alike.
    """
    mean = per_token(logps, lengths)
    return nll - beta * logsigmoid(margin(mean - _log_of_rest(mean)))


def _log_of_rest(mean: Tensor) -> Tensor:
    """ln(1 - e^a) for a <= 0, exact at both ends (Mächler 2012); a certain response keeps a finite value."""
    below = mean.clamp(max=-(torch.finfo(mean.dtype).tiny ** 0.5))
    near = below > -math.log(2)
    # Each branch sees only values that it can take: a gradient of infinity times 0 would be NaN.
    close = torch.log(-torch.expm1(below.where(near, -1.0)))
    far = torch.log1p(-torch.exp(below.where(~near, -1.0)))
    return close.where(near, far)
