"""The adapters of one fused matrix: how they start, compute, and are split over tensor ranks.

Letters: T tokens, r rank, n adapters of a fused matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
    set_tensor_model_parallel_attributes,
)
from torch import Tensor, nn

from mindspeed_dpo.config.settings.lora import LORA_MODULES, AdapterConfig
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.models.lora.dropout import DropoutStream, number_of
from mindspeed_dpo.weights.layouts import Cut
from mindspeed_dpo.weights.lora.source import AdapterSource
from mindspeed_dpo.weights.lora.targets import SIDES, Target, hf_path


@dataclass
class Switch:
    """Whether the adapters of a model take part."""

    on: bool = True


class Adapters(nn.Module):
    """The adapters of one fused matrix on one tensor rank: `<module>_lora_A` and `<module>_lora_B`.

    Where the matrix is split by its output, A is whole on each rank and B split; where by its input, the other way
    round. The n r numbers between A and B are all that travels.
    """

    def __init__(
        self,
        target: Target,
        layer: int,
        model: ModelConfig,
        cut: Cut,
        settings: AdapterConfig,
        switch: Switch,
        seed: int,
    ) -> None:
        """Make them as PEFT does: A uniform within 1 / sqrt(in), B zero. The draw does not depend on the layout.

        Args:
            target: The matrix.
            layer: Its layer in the model.
            model: The architecture.
            cut: The tensor rank.
            settings: What the adapters are like.
            switch: Shared by the adapters of a model.
            seed: Of the run.
        """
        super().__init__()
        self.target, self.layer, self.model, self.cut, self.switch = target, layer, model, cut, switch
        self.scale, self.dropout = settings.scale, settings.lora_dropout
        self._stream = DropoutStream(seed)
        for module in target.adapted:
            a, b = target.shapes(module, model)
            numbers = torch.Generator().manual_seed(number_of(seed, layer, LORA_MODULES.index(module)))
            bound = 1 / math.sqrt(a[1])
            self._add(module, "lora_A", torch.empty(a).uniform_(-bound, bound, generator=numbers))
            self._add(module, "lora_B", torch.zeros(b))

    def _add(self, module: str, side: str, whole: Tensor) -> None:
        parameter = nn.Parameter(torch.empty(0))
        dim = self.target.split_dim(side)
        parameter.data = self._share(whole, dim)
        # As of other split parameters: what is whole on every rank counts once in the gradient's norm.
        set_tensor_model_parallel_attributes(parameter, dim is not None, dim or 0, 1)
        self.register_parameter(f"{module}_{side}", parameter)

    def _share(self, whole: Tensor, dim: int | None) -> Tensor:
        return (whole if dim is None else whole.chunk(self.cut.size, dim)[self.cut.rank]).clone()

    def place(self, like: Tensor, sequence_parallel: bool) -> None:
        """Take device and number format of the matrix, and say what its sequence parallelism asks for."""
        self.sequence_parallel = sequence_parallel
        self.to(device=like.device, dtype=like.dtype)
        for name, parameter in self.named_parameters():
            # Each rank sees its own tokens there, and megatron-core adds up the gradients of what is marked so.
            side = "lora_A" if self.target.kind.dim == 0 else "lora_B"
            parameter.sequence_parallel = sequence_parallel and name.endswith(side)  # type: ignore[attr-defined]

    def side(self, side: str) -> list[Tensor]:
        """A or B of every adapter, this rank's share."""
        return [getattr(self, f"{module}_{side}") for module in self.target.adapted]

    def forward(self, x: Tensor) -> Tensor:
        """What the adapters add to the output of the matrix for its input [T, 1, in]."""
        between = self._between(x) * self.scale
        if self.target.kind.dim == 0:
            spread = (
                gather_from_sequence_parallel_region if self.sequence_parallel else copy_to_tensor_model_parallel_region
            )
        else:
            spread = (
                reduce_scatter_to_sequence_parallel_region
                if self.sequence_parallel
                else reduce_from_tensor_model_parallel_region
            )
        if self.cut.size > 1:
            between = spread(between)
        return between @ self.target.fused_b(self.side("lora_B"), self.model, self.cut).t()

    def _between(self, x: Tensor) -> Tensor:
        """[T, 1, n r]; each adapter drops inputs of its own."""
        a = self.side("lora_A")
        if not (self.training and self.dropout):
            return x @ self.target.fused_a(a).t()
        keep = 1 - self.dropout
        # Under sequence parallelism every rank has tokens of its own, and needs numbers of its own.
        split = self.sequence_parallel or self.target.kind.dim == 1
        masks = (self._stream.draw(x, split) for _ in a)
        return torch.cat([(x * (mask < keep) / keep) @ one.t() for one, mask in zip(a, masks, strict=True)], dim=-1)

    def change(self) -> Tensor:
        """Scale B A [rows, in] float32: what merging adds to this rank's share of the matrix."""
        with torch.no_grad():
            b = self.target.fused_b([t.float() for t in self.side("lora_B")], self.model, self.cut)
            return self.scale * (b @ self.target.fused_a([t.float() for t in self.side("lora_A")]))

    def named_parts(self) -> Iterator[tuple[str, str, int | None]]:
        """For each parameter: its name here, PEFT's name without prefix, and the dim along which ranks split it."""
        for module in self.target.adapted:
            path = hf_path(self.target, module, self.layer)
            for side in SIDES:
                yield f"{module}_{side}", f"{path}.{side}.weight", self.target.split_dim(side)

    def load(self, source: AdapterSource) -> None:
        """Take this rank's share of stored adapters."""
        with torch.no_grad():
            for name, stored, dim in self.named_parts():
                getattr(self, name).copy_(self._share(source.tensors[stored], dim))
