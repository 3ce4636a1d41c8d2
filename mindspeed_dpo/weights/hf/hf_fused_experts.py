"""Experts as transformers 5 holds them in memory, and saves them on request: all of a layer in two tensors.

`experts.gate_up_proj` [E, 2 f, h] has the gate rows of each expert above its up rows, `experts.down_proj` is [E, h, f]
(`save_pretrained(save_original_format=False)`). By default transformers 5 saves one tensor per expert, as did 4.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.layer_placement import TPRank
from mindspeed_dpo.weights.model_sizes import Shape
from mindspeed_dpo.weights.name_mapping import RuleTable, TensorEntry, TensorRule

_MODULE = "model.layers.{g}.mlp.experts."
_GATE_UP, _DOWN = _MODULE + "gate_up_proj", _MODULE + "down_proj"
_OLD_BLOCK, _BLOCK = ".block_sparse_moe.", ".mlp."
"""The module that transformers 5 has renamed in Mixtral, and its name there."""


def has_fused_experts(names: Collection[str]) -> bool:
    """Whether a Hugging Face folder holds tensors of all experts of a layer."""
    return any(name.endswith(".mlp.experts.gate_up_proj") for name in names)


def with_fused_names(rules: RuleTable) -> RuleTable:
    """The rules of a family with the names under which transformers 5 has the tensors in memory."""
    return tuple(map(_with_fused_name, rules))


def is_fused(entry: TensorEntry) -> bool:
    """Whether an entry of such rules is one expert's part of a tensor."""
    return entry.rule.where == "expert" and entry.rule.stored in ((_GATE_UP,), (_DOWN,))


def fused_shape(entry: TensorEntry, model: ModelConfig) -> Shape:
    """The shape of the tensor that holds an entry."""
    shapes = entry.layout.hf_shapes(model)
    return (model.num_experts or 0, sum(shape[0] for shape in shapes), shapes[0][1])


def read_fused(lazy: Any, entry: TensorEntry, model: ModelConfig, tp: TPRank) -> tuple[Tensor, ...]:
    """Read a rank's slices of one expert's weights; dtype as stored, shape of each as of `WeightSource.read_slices`.

    Args:
        lazy: The tensor of all experts: one of a mapped file, or a slice object of safetensors.
        entry: The expert's entry.
        model: The architecture.
        tp: The rank.
    """
    slices, start, dim = [], 0, entry.layout.partition_dim
    for shape in entry.layout.hf_shapes(model):
        bounds = [(0, size) for size in shape]
        if dim is not None:
            bounds[dim] = entry.layout.hf_range(shape[dim], model, tp)
        (first, last), columns = bounds
        expert = entry.expert or 0
        part = lazy[expert : expert + 1, start + first : start + last, slice(*columns)]
        slices.append(part[0])
        start += shape[0]
    return tuple(slices)


def _with_fused_name(rule: TensorRule) -> TensorRule:
    if rule.where == "expert":
        return replace(rule, stored=(_GATE_UP if len(rule.hf) > 1 else _DOWN,))
    if any(_OLD_BLOCK in name for name in rule.hf):
        return replace(rule, stored=tuple(name.replace(_OLD_BLOCK, _BLOCK) for name in rule.hf))
    return rule
