"""Dimensions of tensors as functions of the model, from which layouts and families are declared."""

from __future__ import annotations

from collections.abc import Callable

from mindspeed_dpo.config.settings.model import ModelConfig

Shape = tuple[int, ...]
Size = int | Callable[[ModelConfig], int]
"""A dimension of a tensor: a number, or a function of the model such as those below."""


def hidden_size(model: ModelConfig) -> int:
    """Width h of the residual stream."""
    return model.hidden_size


def ffn_hidden_size(model: ModelConfig) -> int:
    """Width f of the feed-forward layer."""
    return model.ffn_hidden_size


def head_size(model: ModelConfig) -> int:
    """Width d of one attention head."""
    return model.kv_channels


def query_size(model: ModelConfig) -> int:
    """Width n d of all query heads."""
    return model.num_attention_heads * model.kv_channels


def key_size(model: ModelConfig) -> int:
    """Width g d of all key heads, or of all value heads."""
    return model.num_query_groups * model.kv_channels


def moe_ffn_hidden_size(model: ModelConfig) -> int:
    """Width of one routed expert."""
    return model.moe_ffn_hidden_size


def shared_expert_size(model: ModelConfig) -> int:
    """Width of the shared experts together."""
    return model.moe_shared_expert_intermediate_size


def num_experts(model: ModelConfig) -> int:
    """Number of routed experts of a layer."""
    return model.num_experts or 0


def evaluate(size: Size, model: ModelConfig) -> int:
    """The size of a dimension for a given model."""
    return size if isinstance(size, int) else size(model)
