"""The weights of one layer by function, and a check that all weights of a model are present."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.parallel.expert_parallel import ExpertGroup
from mindspeed_dpo.parallel.tensor_parallel import TensorGroup
from mindspeed_dpo.weights import ParallelLayout, Placement
from mindspeed_dpo.weights.families import rules_for
from mindspeed_dpo.weights.name_mapping import local_entries

_MAX_LISTED = 5


@dataclass(frozen=True)
class MlpWeights:
    """Weights of a gated feed-forward layer of width f on this tensor-parallel rank; h is the hidden size.

    Attributes:
        gate_up: [2 f, h], gate above up, in the model's dtype.
        down: [h, f].
    """

    gate_up: Tensor
    down: Tensor

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], module: str) -> MlpWeights:
        """Select the weights of a module such as `decoder.layers.0.mlp.`."""
        return cls(weights[module + "linear_fc1.weight"], weights[module + "linear_fc2.weight"])


@dataclass(frozen=True)
class ExpertWeights:
    """Weights of the feed-forward part of a layer with E experts, of which this rank holds g, each of width f.

    Attributes:
        router: [E, h], in the model's dtype.
        router_bias: [E] float32, added to the scores for the choice of experts; None without one.
        experts: [g] weights of this rank's experts.
        shared: Weights of the shared experts; None without them.
        shared_gate: [1, h] gate of the shared experts; None without one.
    """

    router: Tensor
    router_bias: Tensor | None
    experts: list[MlpWeights]
    shared: MlpWeights | None
    shared_gate: Tensor | None

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], module: str, num_local_experts: int) -> ExpertWeights:
        """Select the weights of a module such as `decoder.layers.0.mlp.`."""
        shared = module + "shared_experts."
        return cls(
            router=weights[module + "router.weight"],
            router_bias=weights.get(module + "router.expert_bias"),
            experts=[
                MlpWeights.of(weights, f"{module}experts.local_experts.{index}.") for index in range(num_local_experts)
            ],
            shared=MlpWeights.of(weights, shared) if shared + "linear_fc1.weight" in weights else None,
            shared_gate=weights.get(shared + "gate_weight"),
        )


@dataclass(frozen=True)
class LayerWeights:
    """Weights of one layer on this tensor-parallel rank, in the model's dtype; not copies.

    Notation: h hidden size, G query groups of this rank, r query heads per group, d head width.

    Attributes:
        attention_norm: [h].
        qkv: [G (r + 2) d, h], per query group its r queries, key and value.
        qkv_bias: [G (r + 2) d], or None.
        query_norm: [d], or None.
        key_norm: [d], or None.
        projection: [h, G r d].
        mlp_norm: [h].
        mlp: The feed-forward part, dense or with experts.
    """

    attention_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    query_norm: Tensor | None
    key_norm: Tensor | None
    projection: Tensor
    mlp_norm: Tensor
    mlp: MlpWeights | ExpertWeights

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], model: ModelConfig, index: int, experts: ExpertGroup) -> LayerWeights:
        """Select the weights of layer `index` from the result of `check_weights`."""
        prefix = f"decoder.layers.{index}."
        attention, mlp = prefix + "self_attention.", prefix + "mlp."
        num_local = len(experts.local_experts(model.num_experts or 0))
        return cls(
            attention_norm=weights[prefix + "input_layernorm.weight"],
            qkv=weights[attention + "linear_qkv.weight"],
            qkv_bias=weights.get(attention + "linear_qkv.bias"),
            query_norm=weights.get(attention + "q_layernorm.weight"),
            key_norm=weights.get(attention + "k_layernorm.weight"),
            projection=weights[attention + "linear_proj.weight"],
            mlp_norm=weights[prefix + "pre_mlp_layernorm.weight"],
            mlp=ExpertWeights.of(weights, mlp, num_local) if model.is_moe_layer(index) else MlpWeights.of(weights, mlp),
        )


def placement_with(model: ModelConfig, tp: TensorGroup, experts: ExpertGroup) -> Placement:
    """Return the part of a model that a rollout process holds: all layers, its shards and its experts."""
    layout = ParallelLayout(tp.size, 1, ep=experts.size)
    return layout.placement(model.num_layers, tp.rank, 0, ep_rank=experts.rank)


def check_weights(
    model: ModelConfig, weights: Mapping[str, Tensor], tp: TensorGroup, experts: ExpertGroup
) -> dict[str, Tensor]:
    """Select the weights that a rank needs, by name, and check their shapes.

    Args:
        model: The architecture.
        weights: Weights by Megatron's names in the shapes of `LayerWeights`, such as [h], any float dtype.
        tp: The tensor-parallel group.
        experts: The ranks that share the experts.

    Raises:
        ValueError: Weights are missing or misshapen; up to five are listed.
    """
    selected: dict[str, Tensor] = {}
    problems = []
    for name, entry in local_entries(rules_for(model), model, placement_with(model, tp, experts)):
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
