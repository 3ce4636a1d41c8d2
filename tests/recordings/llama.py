"""The recorded model in plain torch, in the precision of its weights throughout.

transformers' Llama normalises and takes the softmax in float32 whatever the weights are, so it cannot give a float64
reference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.recordings.files import POLICY

Weights = Mapping[str, Tensor]


@lru_cache(maxsize=1)
def config() -> dict[str, Any]:
    """The sizes of policy and reference."""
    values: dict[str, Any] = json.loads((POLICY / "config.json").read_text())
    return values


def logits(weights: Weights, ids: Tensor) -> Tensor:
    """Logits [sequences, tokens, vocabulary] of sequences that are padded on the right, if at all.

    Attention is causal, so a token never sees the padding behind it.
    """
    sizes = config()
    hidden = weights["model.embed_tokens.weight"][ids]
    rotation = _rotation(ids.size(1), hidden.dtype)
    for layer in range(sizes["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        part = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        hidden = hidden + _attention(part, _norm(hidden, part["input_layernorm.weight"]), rotation)
        hidden = hidden + _mlp(part, _norm(hidden, part["post_attention_layernorm.weight"]))
    return F.linear(_norm(hidden, weights["model.norm.weight"]), weights["lm_head.weight"])


def _norm(hidden: Tensor, weight: Tensor) -> Tensor:
    return weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + config()["rms_norm_eps"])


def _rotation(length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines [tokens, head size]."""
    sizes = config()
    width = sizes["hidden_size"] // sizes["num_attention_heads"]
    frequencies = sizes["rope_theta"] ** (-torch.arange(0, width, 2, dtype=dtype) / width)
    angles = torch.outer(torch.arange(length, dtype=dtype), frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def _rotated(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    first, second = heads.chunk(2, -1)
    return heads * rotation[0] + torch.cat((-second, first), -1) * rotation[1]


def _attention(part: Weights, hidden: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    sizes = config()
    sequences, length, width = hidden.shape
    query_heads, num_key_heads_per_rank = sizes["num_attention_heads"], sizes["num_key_value_heads"]

    def heads(name: str, count: int) -> Tensor:
        projected = F.linear(hidden, part[f"self_attn.{name}_proj.weight"])
        return projected.view(sequences, length, count, -1).transpose(1, 2)

    query, key = _rotated(heads("q", query_heads), rotation), _rotated(heads("k", num_key_heads_per_rank), rotation)
    key, value = (
        one.repeat_interleave(query_heads // num_key_heads_per_rank, dim=1)
        for one in (key, heads("v", num_key_heads_per_rank))
    )
    scores = query @ key.transpose(-1, -2) / query.size(-1) ** 0.5
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    mixed = scores.masked_fill(future, -torch.inf).softmax(-1) @ value
    return F.linear(mixed.transpose(1, 2).reshape(sequences, length, width), part["self_attn.o_proj.weight"])


def _mlp(part: Weights, hidden: Tensor) -> Tensor:
    gate, up = (F.linear(hidden, part[f"mlp.{name}_proj.weight"]) for name in ("gate", "up"))
    return F.linear(F.silu(gate) * up, part["mlp.down_proj.weight"])
