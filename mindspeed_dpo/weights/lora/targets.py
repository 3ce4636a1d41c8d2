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

from mindspeed_dpo.config.settings.lora import FUSED_MODULES, AdapterConfig
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.families import rules_for
from mindspeed_dpo.weights.layer_placement import TPRank
from mindspeed_dpo.weights.model_sizes import Shape
from mindspeed_dpo.weights.name_mapping import TensorEntry, TensorRule
from mindspeed_dpo.weights.tensor_layouts import TensorLayout

FACTORS = ("lora_A", "lora_B")
_SPLIT_DIMS = {"lora_A": 1, "lora_B": 0}
_WEIGHT = ".weight"


@dataclass(frozen=True)
class AdapterTarget:
    """A matrix of Megatron's decoder layers that has adapters.

    For `linear_qkv` with adapters of query and value, `modules` is ("q_proj", None, "v_proj").

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
        """How the matrix is made of Hugging Face matrices."""
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


def adapter_targets(model: ModelConfig, settings: AdapterConfig) -> list[AdapterTarget]:
    """The matrices of a layer that have adapters.

    Raises:
        WeightsError: The model has experts.
    """
    if model.has_experts:
        raise WeightsError("adapters of a model with experts are not supported yet; merge them with PEFT first")
    targets = []
    for rule in rules_for(model):
        fused = rule.mcore.removesuffix(_WEIGHT).rsplit(".", 1)[-1]
        if fused in FUSED_MODULES and rule.mcore.endswith(_WEIGHT):
            modules = tuple(module if module in settings.modules else None for module in FUSED_MODULES[fused])
            if any(modules):
                targets.append(AdapterTarget(rule, modules, settings.lora_r))
    return targets


def adapter_tensors(model: ModelConfig, settings: AdapterConfig) -> Iterator[AdapterTensor]:
    """Every tensor of the adapters of a model."""
    targets = adapter_targets(model, settings)
    for layer in range(model.num_layers):
        for target in targets:
            for module in target.adapted:
                for factor, shape in zip(FACTORS, target.shapes(module, model), strict=True):
                    yield AdapterTensor(target.hf_module(module, layer), factor, shape)
