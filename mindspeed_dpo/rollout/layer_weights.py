"""The weights of one layer by function, and a check that all weights of a model are present."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.device.ops import Product
from mindspeed_dpo.parallel.tensor_parallel import TensorGroup
from mindspeed_dpo.weights import Placement
from mindspeed_dpo.weights.families import rules_for
from mindspeed_dpo.weights.name_mapping import local_entries

_MAX_LISTED = 5

MakeProduct = Callable[[Tensor, Tensor | None], Product]


@dataclass(frozen=True)
class LayerWeights:
    """Weights of one layer on this tensor-parallel rank, in the model's dtype; not copies.

    Notation: h hidden size, f feed-forward size, G query groups of this rank, r query heads per group, d head width.

    Attributes:
        attention_norm: [h].
        qkv: [G (r + 2) d, h], per query group its r queries, key and value.
        qkv_bias: [G (r + 2) d], or None.
        query_norm: [d], or None.
        key_norm: [d], or None.
        projection: [h, G r d].
        mlp_norm: [h].
        gate_up: [2 f, h], gate above up.
        down: [h, f].
    """

    attention_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    query_norm: Tensor | None
    key_norm: Tensor | None
    projection: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], index: int) -> LayerWeights:
        """Select the weights of layer `index` from the result of `check_weights`."""
        prefix = f"decoder.layers.{index}."
        attention = prefix + "self_attention."
        return cls(
            attention_norm=weights[prefix + "input_layernorm.weight"],
            qkv=weights[attention + "linear_qkv.weight"],
            qkv_bias=weights.get(attention + "linear_qkv.bias"),
            query_norm=weights.get(attention + "q_layernorm.weight"),
            key_norm=weights.get(attention + "k_layernorm.weight"),
            projection=weights[attention + "linear_proj.weight"],
            mlp_norm=weights[prefix + "pre_mlp_layernorm.weight"],
            gate_up=weights[prefix + "mlp.linear_fc1.weight"],
            down=weights[prefix + "mlp.linear_fc2.weight"],
        )


@dataclass(frozen=True)
class LayerProducts:
    """Matrix products with the weights of one layer, named as in `LayerWeights`."""

    qkv: Product
    projection: Product
    gate_up: Product
    down: Product

    @classmethod
    def of(cls, layer: LayerWeights, make: MakeProduct) -> LayerProducts:
        """Build the products of a layer with `make`."""
        return cls(
            qkv=make(layer.qkv, layer.qkv_bias),
            projection=make(layer.projection, None),
            gate_up=make(layer.gate_up, None),
            down=make(layer.down, None),
        )


def check_weights(model: ModelConfig, weights: Mapping[str, Tensor], tp: TensorGroup) -> dict[str, Tensor]:
    """Select the weights that a rank needs, by name, and check their shapes.

    Args:
        model: The architecture.
        weights: Weights by Megatron's names in the shapes of `LayerWeights`, such as [h], any float dtype.
        tp: The tensor-parallel group.

    Raises:
        ValueError: Weights are missing or misshapen; up to five are listed.
    """
    placement = Placement.even(model.num_layers, tp_rank=tp.rank, tp_size=tp.size)
    selected: dict[str, Tensor] = {}
    problems = []
    for name, entry in local_entries(rules_for(model), model, placement):
        expected = entry.layout.mcore_shape(model, tp.size)
        if name not in weights:
            problems.append(f"{name} {list(expected)} is missing")
        elif tuple(weights[name].shape) != expected:
            problems.append(f"{name} is {list(weights[name].shape)}, expected {list(expected)}")
        else:
            selected[name] = weights[name]
    if problems:
        more = f" and {len(problems) - _MAX_LISTED} more" if len(problems) > _MAX_LISTED else ""
        raise ValueError(
            f"the rollout needs all layers of rank {tp.rank} of {tp.size} in Megatron's layout: "
            f"{'; '.join(problems[:_MAX_LISTED])}{more}; pass the weights of one pipeline stage that has all layers"
        )
    return selected
