"""The matrices that have adapters, and how the adapters of several Hugging Face matrices act on one fused matrix.

An adapter of a Hugging Face matrix W [out, in] is A [r, in] and B [out, r]; W x becomes W x + scale B A x. Where
Megatron fuses several matrices (query, key, value; gate, up), their A are stacked to [n r, in], and their B are the
blocks of a matrix [rows, n r] that is zero elsewhere, with rows in Megatron's order. The product of the two is the
change of the fused matrix, and every adapter means the same as in PEFT.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from mindspeed_dpo.config.settings.lora import DOWN, FUSED_MODULES, GATE_UP, AdapterConfig
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.families import rules_for
from mindspeed_dpo.weights.layer_placement import TPRank
from mindspeed_dpo.weights.model_sizes import Shape
from mindspeed_dpo.weights.name_mapping import TensorEntry, TensorRule, layer_rules
from mindspeed_dpo.weights.tensor_layouts import TensorLayout

FACTORS = ("lora_A", "lora_B")
_SPLIT_DIMS = {"lora_A": 1, "lora_B": 0}
_WEIGHT = ".weight"
EXPERT_PARAMETERS = {"linear_fc1": GATE_UP, "linear_fc2": DOWN}
"""The parameter of transformers 5 that holds the same matrices of all experts as each of Megatron's modules."""


@dataclass(frozen=True)
class AdapterTarget:
    """A matrix of Megatron's decoder layers that has adapters.

    `AdapterTarget(rule, ("q_proj", None, "v_proj"), rank=8)` adapts query and value of `linear_qkv`.

    Attributes:
        rule: The rule of the matrix.
        modules: The Hugging Face matrices in it, such as `q_proj`; None for one without adapter.
        rank: Rank r of each adapter.
    """

    rule: TensorRule
    modules: tuple[str | None, ...]
    rank: int

    @property
    def layout(self) -> TensorLayout:
        """The layout of the matrix, which is made of Hugging Face matrices."""
        return self.rule.layout

    @property
    def adapted(self) -> tuple[str, ...]:
        """The Hugging Face matrices with an adapter."""
        return tuple(module for module in self.modules if module is not None)

    def mcore_module(self, local_layer: int) -> str:
        """Name of Megatron's linear module in a layer of this index within its chunk."""
        return self.rule.mcore.format(i=local_layer).removesuffix(_WEIGHT)

    def hf_module(self, module: str, layer: int) -> str:
        """Name of an adapted matrix in Hugging Face, such as `model.layers.3.self_attn.q_proj`."""
        return TensorEntry(self.rule, layer).hf_names[self.modules.index(module)].removesuffix(_WEIGHT)

    def shapes(self, module: str, model: ModelConfig) -> tuple[Shape, Shape]:
        """Unsharded shapes of A [r, in] and B [out, r] of an adapted matrix."""
        size_out, size_in = self.layout.hf_shapes(model)[self.modules.index(module)]
        return (self.rank, size_in), (size_out, self.rank)

    def split_dim(self, factor: str) -> int | None:
        """The dim along which tensor-parallel ranks split `lora_A` or `lora_B`; None where each holds a copy."""
        dim = _SPLIT_DIMS[factor]
        return dim if self.layout.partition_dim == dim else None

    def fused_a(self, a: Sequence[Tensor]) -> Tensor:
        """Stack the A weights of all adapters, [r, in] each, to [n r, in], any dtype."""
        return torch.cat(tuple(a)) if len(a) > 1 else a[0]

    def fused_b(self, b: Sequence[Tensor], model: ModelConfig, tp: TPRank) -> Tensor:
        """Arrange a rank's B weights, [out, r] each, as blocks of [rows, n r] in Megatron's row order, any dtype."""
        if self.modules == self.adapted and len(b) == 1:
            return b[0]
        width, blocks = self.rank * len(b), []
        factors = iter(enumerate(b))
        for module, shape in zip(self.modules, self.layout.hf_shapes(model), strict=True):
            if module is None:
                blocks.append(b[0].new_zeros(shape[0] // tp.size, width))
            else:
                number, factor = next(factors)
                blocks.append(pad(factor, (number * self.rank, width - (number + 1) * self.rank)))
        return self.layout.to_mcore(tuple(blocks), model, tp)


@dataclass(frozen=True)
class ExpertTarget:
    """A matrix of every routed expert of a layer that has an adapter for each expert: A [r, in] and B [out, r].

    Those of all experts are one tensor, [E, r, in] and [E, out, r], under the name of the parameter in transformers 5.

    `ExpertTarget(rule, "down_proj", rank=8, scale=2.0)` adapts the second matrix of each expert.

    Attributes:
        rule: The rule of the matrix.
        parameter: `gate_up_proj`, the gate above the up matrix as in Megatron, or `down_proj`.
        rank: Rank r of each adapter.
        scale: The factor on B A, unitless.
    """

    rule: TensorRule
    parameter: str
    rank: int
    scale: float

    def mcore_module(self, local_layer: int) -> str:
        """Name of the module with the matrices of all experts, in a layer of this index within its chunk."""
        return self.rule.mcore.replace(".local_experts.{j}", "").format(i=local_layer).removesuffix(_WEIGHT)

    def hf_module(self, layer: int) -> str:
        """Name of the parameter in transformers, such as `model.layers.3.mlp.experts.gate_up_proj`."""
        return expert_parameter(layer, self.parameter)

    def shapes(self, model: ModelConfig) -> tuple[Shape, Shape]:
        """Shapes of A [E, r, in] and B [E, out, r] of all experts."""
        size_out, size_in = self.rule.layout.mcore_shape(model, 1)
        count = model.num_experts or 0
        return (count, self.rank, size_in), (count, size_out, self.rank)


def expert_parameter(layer: int, parameter: str) -> str:
    """Name in transformers of a parameter with the matrices of all experts of a layer, whatever the family."""
    return f"model.layers.{layer}.mlp.experts.{parameter}"


@dataclass(frozen=True)
class AdapterTensor:
    """One tensor of one adapter.

    Attributes:
        module: Name of the adapted matrix in Hugging Face, such as `model.layers.3.self_attn.q_proj`.
        factor: `lora_A` or `lora_B`.
        shape: Unsharded shape.
    """

    module: str
    factor: str
    shape: Shape

    @property
    def name(self) -> str:
        """Name in PEFT without its prefix."""
        return f"{self.module}.{self.factor}{_WEIGHT}"


def adapter_targets(model: ModelConfig, settings: AdapterConfig, layer: int) -> list[AdapterTarget]:
    """The matrices of a layer that have adapters, those of routed experts excepted."""
    targets = []
    for rule in layer_rules(rules_for(model), model, layer):
        fused = rule.mcore.removesuffix(_WEIGHT).rsplit(".", 1)[-1]
        if fused in FUSED_MODULES and rule.mcore.endswith(_WEIGHT) and rule.where != "expert":
            modules = tuple(module if module in settings.modules else None for module in FUSED_MODULES[fused])
            if any(modules):
                targets.append(AdapterTarget(rule, modules, settings.lora_r))
    return targets


def expert_targets(model: ModelConfig, settings: AdapterConfig, layer: int) -> list[ExpertTarget]:
    """The parameters of a layer's routed experts that have adapters; none in a layer without experts."""
    rules = {
        EXPERT_PARAMETERS[rule.mcore.removesuffix(_WEIGHT).rsplit(".", 1)[-1]]: rule
        for rule in layer_rules(rules_for(model), model, layer)
        if rule.where == "expert"
    }
    ranks = settings.expert_ranks if rules else {}
    return [ExpertTarget(rules[name], name, rank, settings.scale_of_rank(rank)) for name, rank in ranks.items()]


def adapter_tensors(model: ModelConfig, settings: AdapterConfig) -> Iterator[AdapterTensor]:
    """Every tensor of the adapters of a model."""
    for layer in range(model.num_layers):
        for target in adapter_targets(model, settings, layer):
            for module in target.adapted:
                for factor, shape in zip(FACTORS, target.shapes(module, model), strict=True):
                    yield AdapterTensor(target.hf_module(module, layer), factor, shape)
        for experts in expert_targets(model, settings, layer):
            for factor, shape in zip(FACTORS, experts.shapes(model), strict=True):
                yield AdapterTensor(experts.hf_module(layer), factor, shape)
