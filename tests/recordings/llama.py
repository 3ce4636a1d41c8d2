"""The recorded models in plain torch, in the precision of their weights throughout.

transformers' models normalise and take the softmax in float32 whatever the weights are, so they cannot give a float64
reference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.recordings.experts import Routed, mix_experts

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Model:
    """Weights by their names in Hugging Face's files, and the sizes of `config.json`."""

    weights: Weights
    sizes: dict[str, Any]


@lru_cache(maxsize=4)
def config(folder: Path) -> dict[str, Any]:
    """The sizes of a model."""
    values: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return {"rope_theta": values["rope_parameters"]["rope_theta"], **values}


def logits(model: Model, ids: Tensor) -> tuple[Tensor, list[Routed]]:
    """Logits [sequences, tokens, vocabulary] of sequences that are padded on the right, if at all.

    Attention is causal, so a token never sees the padding behind it. Beside them, the routing of layers with experts.
    """
    weights, sizes, routed = model.weights, model.sizes, []
    hidden = weights["model.embed_tokens.weight"][ids]
    rotation = _rotation(sizes, ids.size(1), hidden.dtype)
    for layer in range(sizes["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        part = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        hidden = hidden + _attention(sizes, part, _norm(sizes, hidden, part["input_layernorm.weight"]), rotation)
        rows = _norm(sizes, hidden, part["post_attention_layernorm.weight"])
        if "mlp.gate_proj.weight" in part:
            hidden = hidden + _mlp(part, rows)
        else:
            mixed, routing = mix_experts(sizes, part, rows)
            hidden, routed = hidden + mixed, [*routed, routing]
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    return F.linear(_norm(sizes, hidden, weights["model.norm.weight"]), head), routed


def _norm(sizes: dict[str, Any], hidden: Tensor, weight: Tensor) -> Tensor:
    return weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + sizes["rms_norm_eps"])


def _rotation(sizes: dict[str, Any], length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines [tokens, head size]."""
    width = sizes.get("head_dim") or sizes["hidden_size"] // sizes["num_attention_heads"]
    frequencies = sizes["rope_theta"] ** (-torch.arange(0, width, 2, dtype=dtype) / width)
    angles = torch.outer(torch.arange(length, dtype=dtype), frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def _rotated(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    first, second = heads.chunk(2, -1)
    return heads * rotation[0] + torch.cat((-second, first), -1) * rotation[1]


def _attention(sizes: dict[str, Any], part: Weights, hidden: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    sequences, length, _ = hidden.shape
    query_heads, num_key_heads_per_rank = sizes["num_attention_heads"], sizes["num_key_value_heads"]

    def heads(name: str, count: int) -> Tensor:
        projected = F.linear(hidden, part[f"self_attn.{name}_proj.weight"])
        split = projected.view(sequences, length, count, -1)
        norm = part.get(f"self_attn.{name}_norm.weight")
        return (split if norm is None else _norm(sizes, split, norm)).transpose(1, 2)

    query, key = _rotated(heads("q", query_heads), rotation), _rotated(heads("k", num_key_heads_per_rank), rotation)
    key, value = (
        one.repeat_interleave(query_heads // num_key_heads_per_rank, dim=1)
        for one in (key, heads("v", num_key_heads_per_rank))
    )
    scores = query @ key.transpose(-1, -2) / query.size(-1) ** 0.5
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    mixed = scores.masked_fill(future, -torch.inf).softmax(-1) @ value
    return F.linear(mixed.transpose(1, 2).flatten(2), part["self_attn.o_proj.weight"])


def _mlp(part: Weights, hidden: Tensor) -> Tensor:
    gate, up = (F.linear(hidden, part[f"mlp.{name}_proj.weight"]) for name in ("gate", "up"))
    return F.linear(F.silu(gate) * up, part["mlp.down_proj.weight"])
