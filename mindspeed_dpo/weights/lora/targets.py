"""Which tensors adapters have, and how those of several Hugging Face matrices become one for Megatron's fused matrix.

An adapter of a matrix W [out, in] of Hugging Face is A [r, in] and B [out, r]; W x becomes W x + scale B A x. Where
Megatron keeps several matrices in one (query, key, value; gate, up), their A lie one above the other [n r, in], and
their B in blocks [rows, n r] with zeros elsewhere, the rows in Megatron's order. So one product of the two is the whole
change of the fused matrix, and every adapter keeps the meaning it has for PEFT.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from mindspeed_dpo.config.settings.lora import FUSED_MODULES, AdapterConfig
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.families import rules_for
from mindspeed_dpo.weights.layouts import Cut, Kind, Shape
from mindspeed_dpo.weights.rules import Entry, Rule

SIDES = ("lora_A", "lora_B")
_WEIGHT = ".weight"


@dataclass(frozen=True)
class Target:
    """A matrix of Megatron's layers that has adapters.

    Attributes:
        rule: Of the matrix.
        modules: Hugging Face's matrices in it, such as `q_proj`; None for one without adapter.
        rank: Of each adapter.
    """

    rule: Rule
    modules: tuple[str | None, ...]
    rank: int

    @property
    def kind(self) -> Kind:
        """How the matrix is made of Hugging Face's."""
        return self.rule.kind

    @property
    def adapted(self) -> tuple[str, ...]:
        """The matrices with an adapter."""
        return tuple(module for module in self.modules if module is not None)

    def module_path(self, local_layer: int) -> str:
        """Name of Megatron's linear module."""
        return self.rule.mcore.format(i=local_layer).removesuffix(_WEIGHT)

    def shapes(self, module: str, model: ModelConfig) -> tuple[Shape, Shape]:
        """Shapes of A and B of a matrix, whole."""
        out, into = self.kind.hf_shapes(model)[self.modules.index(module)]
        return (self.rank, into), (out, self.rank)

    def split_dim(self, side: str) -> int | None:
        """Along which dim `lora_A` or `lora_B` is split over tensor ranks; None where each has a copy."""
        return {"lora_A": 1, "lora_B": 0}[side] if self.kind.dim == {"lora_A": 1, "lora_B": 0}[side] else None

    def fused_a(self, a: Sequence[Tensor]) -> Tensor:
        """A of all adapters [n r, in], from each [r, in]."""
        return torch.cat(tuple(a)) if len(a) > 1 else a[0]

    def fused_b(self, b: Sequence[Tensor], model: ModelConfig, cut: Cut) -> Tensor:
        """B of all adapters [rows, n r] with rows in Megatron's order, from each [out, r]; of one tensor rank."""
        if self.modules == self.adapted and len(b) == 1:
            return b[0]
        width, blocks = self.rank * len(b), []
        given = iter(enumerate(b))
        for module, shape in zip(self.modules, self.kind.hf_shapes(model), strict=True):
            if module is None:
                blocks.append(b[0].new_zeros(shape[0] // cut.size, width))
            else:
                place, block = next(given)
                blocks.append(pad(block, (place * self.rank, width - (place + 1) * self.rank)))
        return self.kind.to_mcore(tuple(blocks), model, cut)


@dataclass(frozen=True)
class Part:
    """One tensor of one adapter.

    Attributes:
        path: Hugging Face's name of the adapted matrix, such as `model.layers.3.self_attn.q_proj`.
        side: `lora_A` or `lora_B`.
        shape: Of the whole.
    """

    path: str
    side: str
    shape: Shape

    @property
    def name(self) -> str:
        """PEFT's name without its prefix."""
        return f"{self.path}.{self.side}{_WEIGHT}"


def targets(model: ModelConfig, settings: AdapterConfig) -> list[Target]:
    """The matrices of each layer that have adapters."""
    found = []
    for rule in rules_for(model):
        fused = rule.mcore.removesuffix(_WEIGHT).rsplit(".", 1)[-1]
        if fused in FUSED_MODULES and rule.mcore.endswith(_WEIGHT):
            modules = tuple(module if module in settings.modules else None for module in FUSED_MODULES[fused])
            if any(modules):
                found.append(Target(rule, modules, settings.lora_r))
    return found


def parts(model: ModelConfig, settings: AdapterConfig) -> Iterator[Part]:
    """Every tensor of the adapters of a model."""
    for layer in range(model.num_layers):
        for target in targets(model, settings):
            for module in target.adapted:
                path = hf_path(target, module, layer)
                for side, shape in zip(SIDES, target.shapes(module, model), strict=True):
                    yield Part(path, side, shape)


def hf_path(target: Target, module: str, layer: int) -> str:
    """Hugging Face's name of an adapted matrix."""
    return Entry(target.rule, layer).hf_names[target.modules.index(module)].removesuffix(_WEIGHT)
