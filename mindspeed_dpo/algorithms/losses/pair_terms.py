"""The terms that pair losses are computed from. P is the number of pairs; column 0 is the chosen response."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mindspeed_dpo.config.settings.loss import LossConfig


@dataclass(frozen=True)
class PairTerms:
    """The terms of P pairs, from which each loss takes what it needs. All tensors are float32 or float64.

    Example: relative to the reference, the chosen response of a pair has gained 3 nats on the rejected one.

        PairTerms(
            logps=tensor([[-20.0, -31.0]]),   # the reference has [[-22.0, -30.0]]
            ratios=tensor([[2.0, -1.0]]),
            scores=tensor([[2.0, -1.0]]),     # reverse KL, no margin
            lengths=tensor([[10, 12]]),
            nll=tensor([2.0]),                # 20 nats / 10 tokens
            beta=0.1,
        )                                     # sigmoid: -log sigmoid(0.1 * 3) = 0.554

    Attributes:
        logps: [P, 2] summed log-probability of each response under the policy, in nats, with gradient.
        ratios: [P, 2] `logps` minus those of the reference, in nats.
        scores: [P, 2] `ratios` through the f-divergence, in nats; the pair's margin / beta is subtracted from the
            chosen response's.
        lengths: [P, 2] integers, response tokens.
        nll: [P] negative log-probability of the chosen response, scaled so that its mean over the pairs of a group is
            the mean over that group's chosen tokens, in nats per token.
        beta: Strength of the regularisation towards the reference in this step, per nat.
        partners: Loss name -> [P, 2], what `aot` and `aot_unpaired` compare each pair with, in nats.
        targets: [P] by how much the implicit reward of the chosen response should exceed that of the rejected one, in
            beta times nats; None where the data does not say.

    Raises:
        ValueError: `logps`, `ratios` or `scores` are not [P, 2] in float32 or float64.
    """

    logps: Tensor
    ratios: Tensor
    scores: Tensor
    lengths: Tensor
    nll: Tensor
    beta: float
    partners: Mapping[str, Tensor] = field(default_factory=dict)
    targets: Tensor | None = None

    def __post_init__(self) -> None:
        check_pairs("logps", self.logps)
        check_pairs("ratios", self.ratios)
        check_pairs("scores", self.scores)


PairLoss = Callable[[PairTerms, LossConfig], Tensor]
"""A pair loss: from the terms of P pairs and the settings to the loss of each pair, [P]."""


def log_ratios(policy_logps: Tensor, ref_logps: Tensor) -> Tensor:
    """Log-ratio of policy to reference per response: [P, 2], in nats.

    Args:
        policy_logps: [P, 2] float32 or float64, summed response log-probabilities of the policy, in nats.
        ref_logps: [P, 2], the same from the frozen reference.

    Raises:
        ValueError: The inputs differ in shape, are not [P, 2], or have less than 32 bits: a sum of some hundred nats
            keeps no useful difference in bfloat16.
    """
    check_pairs("policy_logps", policy_logps)
    check_pairs("ref_logps", ref_logps)
    if policy_logps.shape != ref_logps.shape:
        raise ValueError(
            f"policy_logps and ref_logps must have the same shape [P, 2], "
            f"got {list(policy_logps.shape)} and {list(ref_logps.shape)}"
        )
    return policy_logps - ref_logps


def check_pairs(name: str, values: Tensor) -> None:
    """Check that values of pairs, such as log-probabilities, are [P, 2] in float32 or float64.

    Raises:
        ValueError: Shape or dtype differ; the message names the tensor.
    """
    if values.dim() != 2 or values.shape[1] != 2:
        raise ValueError(f"{name} must be [P, 2] (chosen, rejected), got {list(values.shape)}")
    if values.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name} must be float32 or float64, got {values.dtype}")


def margin(scores: Tensor) -> Tensor:
    """Score of the chosen minus score of the rejected response: [P] of [P, 2], in the scores' dtype and unit.

    Raises:
        ValueError: The scores are not [P, 2] in float32 or float64.
    """
    check_pairs("scores", scores)
    return scores[:, 0] - scores[:, 1]


def bounded_exp(values: Tensor) -> Tensor:
    """Exponential of unitless values of any shape and floating dtype, clamped at 80; float32 overflows above."""
    return values.clamp(max=80.0).exp()


def per_token(values: Tensor, lengths: Tensor) -> Tensor:
    """Values [P, 2] divided by the number of response tokens [P, 2]; an empty response counts as one token.

    Args:
        values: [P, 2] float32 or float64, such as summed log-probabilities in nats.
        lengths: [P, 2] integers, response tokens.

    Raises:
        ValueError: The shapes differ.
    """
    if values.shape != lengths.shape:
        raise ValueError(f"lengths must be {list(values.shape)} like the log-probabilities, got {list(lengths.shape)}")
    return values / lengths.clamp(min=1).to(values.dtype)
