"""Layers with experts of Qwen3-MoE and Mixtral in plain torch: every expert computes every token.

Letters: t tokens, E experts, k experts of a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Routed(NamedTuple):
    """What a router has chosen for t tokens."""

    scores: Tensor
    """[t, E], with gradient."""
    chosen: Tensor
    """[t, E]: 1 for the k experts of a token."""


def mix_experts(sizes: dict[str, Any], part: Mapping[str, Tensor], hidden: Tensor) -> tuple[Tensor, Routed]:
    """The output of a layer with experts, in the shape of `hidden`, and its routing."""
    is_mixtral = "block_sparse_moe.gate.weight" in part
    prefix, names = ("block_sparse_moe", "w1 w3 w2") if is_mixtral else ("mlp", "gate_proj up_proj down_proj")
    rows = hidden.flatten(0, 1)
    scores = F.linear(rows, part[f"{prefix}.gate.weight"]).softmax(-1)
    best = scores.topk(sizes["num_experts_per_tok"], -1)
    chosen = torch.zeros_like(scores).scatter(1, best.indices, 1.0)
    weights = scores * chosen
    if is_mixtral or sizes["norm_topk_prob"]:
        weights = weights / weights.sum(-1, keepdim=True)
    output = torch.zeros_like(rows)
    for expert in range(scores.size(1)):
        gate, up, down = (part[f"{prefix}.experts.{expert}.{name}.weight"] for name in names.split())
        output = output + weights[:, expert, None] * F.linear(F.silu(F.linear(rows, gate)) * F.linear(rows, up), down)
    return output.view_as(hidden), Routed(scores, chosen)


def balance_loss(routed: Sequence[Routed], attention: Tensor) -> Tensor:
    """E times the sum over experts of choices and scores, each a mean over all layers and the tokens of `attention`."""
    is_token = attention.flatten().bool()
    scores = torch.cat([one.scores[is_token] for one in routed])
    chosen = torch.cat([one.chosen[is_token] for one in routed])
    return scores.size(1) * (chosen.mean(0) * scores.mean(0)).sum()
