"""Metrics of preference training: implicit rewards, their margins and accuracies, and each component of the loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mindspeed_dpo.algorithms.losses.pair_terms import per_token
from mindspeed_dpo.config.settings.loss import REFERENCE_FREE_LOSSES, LossConfig
from mindspeed_dpo.device.ops import total
from mindspeed_dpo.observability.metric_sums import MetricSums


def implicit_rewards(settings: LossConfig, beta: float, logps: Tensor, ratios: Tensor, lengths: Tensor) -> Tensor:
    """Return rewards [P, 2]: beta (policy - reference), equation 5 of Rafailov et al. 2023 (arXiv:2305.18290).

    This holds for every loss with a reference; without one they are beta times what the loss compares.

    Args:
        settings: The losses in use.
        beta: Strength of the regularisation, per nat.
        logps: [P, 2] float32 or float64 log-probabilities of the responses, in nats.
        ratios: [P, 2] of the same dtype, policy minus reference, in nats.
        lengths: [P, 2] integers, response tokens.

    Returns:
        [P, 2] rewards in the dtype of `logps`, unitless.
    """
    first = settings.dpo_loss_type[0]
    if first not in REFERENCE_FREE_LOSSES:
        return beta * ratios
    return beta * (logps if first == "cpo" else per_token(logps, lengths))


def preference_metrics(
    losses: Tensor, components: Mapping[str, Tensor], rewards: Tensor, logps: Tensor, weights: Tensor
) -> MetricSums:
    """Sum the metrics of P pairs with their weights, without gradient.

    Args:
        losses: [P] float32 or float64 loss of each pair.
        components: Name -> [P] component of the loss; empty if it has only one.
        rewards: [P, 2] of `implicit_rewards`.
        logps: [P, 2] float32 or float64 log-probabilities of the responses, in nats.
        weights: [P] 1 for a pair and 0 for padding, in the dtype of `logps`.
    """
    rewards = rewards.detach()
    values = {
        "loss": losses,
        "rewards/chosen": rewards[:, 0],
        "rewards/rejected": rewards[:, 1],
        "rewards/margins": rewards[:, 0] - rewards[:, 1],
        # Strictly greater: a tie is not a success.
        "rewards/accuracies": (rewards[:, 0] > rewards[:, 1]).to(weights.dtype),
        "logps/chosen": logps[:, 0],
        "logps/rejected": logps[:, 1],
        **{f"loss/{name}": term for name, term in components.items()},
    }
    of_pairs = torch.stack([value.detach() for value in values.values()], 1)
    return MetricSums.of(values, total(of_pairs * weights[:, None]), total(weights).expand(len(values)))
