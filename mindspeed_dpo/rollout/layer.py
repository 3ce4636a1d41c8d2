"""The weights of one layer by what they do, and the check that all of a model's are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.device.ops import Product
from mindspeed_dpo.parallel.tensor_group import TensorGroup
from mindspeed_dpo.weights import Placement
from mindspeed_dpo.weights.families import rules_for
from mindspeed_dpo.weights.rules import local_entries

_NAMED = 5

MakeProduct = Callable[[Tensor, Tensor | None], Product]


@dataclass(frozen=True)
class LayerWeights:
    """One layer of this tensor rank; the tensors themselves, not copies.

    Attributes:
        attention_norm: [h].
        qkv: [G (r + 2) d, h], for each query group its r queries, key and value.
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
        """Layer `index` of the tensors that `checked` returned."""
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
    """The products by one layer's matrices, of `LayerWeights` by the same names."""

    qkv: Product
    projection: Product
    gate_up: Product
    down: Product

    @classmethod
    def of(cls, layer: LayerWeights, make: MakeProduct) -> LayerProducts:
        """The products of a layer, in one of their forms."""
        return cls(
            qkv=make(layer.qkv, layer.qkv_bias),
            projection=make(layer.projection, None),
            gate_up=make(layer.gate_up, None),
            down=make(layer.down, None),
        )


def checked(model: ModelConfig, weights: Mapping[str, Tensor], tp: TensorGroup) -> dict[str, Tensor]:
    """The tensors a rank needs, by name; others that the mapping holds are left out.

    Raises:
        ValueError: Tensors are missing or have another shape than the model says; up to five are named.
    """
    placement = Placement.even(model.num_layers, tp_rank=tp.rank, tp_size=tp.size)
    found: dict[str, Tensor] = {}
    problems = []
    for name, entry in local_entries(rules_for(model), model, placement):
        expected = entry.rule.kind.mcore_shape(model, tp.size)
        if name not in weights:
            problems.append(f"{name} {list(expected)} is missing")
        elif tuple(weights[name].shape) != expected:
            problems.append(f"{name} is {list(weights[name].shape)}, expected {list(expected)}")
        else:
            found[name] = weights[name]
    if problems:
        more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise ValueError(
            f"the rollout needs all layers of rank {tp.rank} of {tp.size} in Megatron's form: "
            f"{'; '.join(problems[:_NAMED])}{more}; hand over the weights of one pipeline stage with all layers"
        )
    return found
