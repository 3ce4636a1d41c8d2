"""What all pair losses start from: log-ratios of policy to reference. Letters: P pairs; column 0 chosen, 1 rejected."""

from __future__ import annotations

import torch
from torch import Tensor


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
    """Refuse anything that is not [P, 2] in float32 or float64.

    Raises:
        ValueError: Shape or dtype differ; the message names the tensor.
    """
    if values.dim() != 2 or values.shape[1] != 2:
        raise ValueError(f"{name} must be [P, 2] (chosen, rejected), got {list(values.shape)}")
    if values.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name} must be float32 (or float64 in tests), got {values.dtype}")


def margin(scores: Tensor) -> Tensor:
    """Score of the chosen minus score of the rejected response: [P] of [P, 2].

    Raises:
        ValueError: The scores are not [P, 2] in float32 or float64.
    """
    check_pairs("scores", scores)
    return scores[:, 0] - scores[:, 1]


def bounded_exp(values: Tensor) -> Tensor:
    """E to the values, of 80 at most: that of more overflows float32."""
    return values.clamp(max=80.0).exp()


def per_token(values: Tensor, lengths: Tensor) -> Tensor:
    """Values [P, 2] divided by the number of response tokens [P, 2]; an empty response counts as one token.

    Raises:
        ValueError: The shapes differ.
    """
    if values.shape != lengths.shape:
        raise ValueError(f"lengths must be {list(values.shape)} like the log-probabilities, got {list(lengths.shape)}")
    return values / lengths.clamp(min=1).to(values.dtype)
