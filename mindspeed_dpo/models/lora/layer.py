"""The adapters of one fused matrix: initialisation, forward pass, merging, and their split over tensor-parallel ranks.

Letters: T tokens of a packed row, r rank, n adapters of a fused matrix.
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
from mindspeed_dpo.models.lora.dropout import DropoutStream, derive_seed
from mindspeed_dpo.weights.layer_placement import TPRank
from mindspeed_dpo.weights.lora.adapter_source import AdapterSource
from mindspeed_dpo.weights.lora.targets import FACTORS, AdapterTarget


@dataclass
class AdapterSwitch:
    """Whether the adapters of a model are applied; shared by all of them."""

    enabled: bool = True


class LoraLayer(nn.Module):
    """The adapters of one fused matrix on one tensor-parallel rank: `<module>_lora_A` and `<module>_lora_B`.

    Where the matrix is split by its output, A is replicated and B split; where it is split by its input, A is split
    and B replicated. Only the n r activations between A and B are communicated.
    """

    def __init__(
        self,
        target: AdapterTarget,
        layer: int,
        model: ModelConfig,
        tp: TPRank,
        settings: AdapterConfig,
        switch: AdapterSwitch,
        seed: int,
    ) -> None:
        """Initialise as PEFT does, with A uniform within 1 / sqrt(in) and B zero, whatever the parallel layout.

        Args:
            target: The matrix.
            layer: Global index of its layer.
            model: The architecture.
            tp: The tensor-parallel rank.
            settings: Rank, alpha, dropout and target matrices.
            switch: Shared by the adapters of the model.
            seed: Seed of the run.
        """
        super().__init__()
        self.target, self.layer, self.model, self.tp, self.switch = target, layer, model, tp, switch
        self.scale, self.dropout = settings.scale, settings.lora_dropout
        self.sequence_parallel = False
        self._stream = DropoutStream(seed)
        for module in target.adapted:
            a, b = target.shapes(module, model)
            generator = torch.Generator().manual_seed(derive_seed(seed, layer, LORA_MODULES.index(module)))
            bound = 1 / math.sqrt(a[1])
            self._add(module, "lora_A", torch.empty(a).uniform_(-bound, bound, generator=generator))
            self._add(module, "lora_B", torch.zeros(b))

    def _add(self, module: str, factor: str, values: Tensor) -> None:
        parameter = nn.Parameter(torch.empty(0))
        dim = self.target.split_dim(factor)
        parameter.data = self._shard(values, dim)
        # As for other split parameters: a replicated one counts once in the gradient norm.
        set_tensor_model_parallel_attributes(parameter, dim is not None, dim or 0, 1)
        self.register_parameter(f"{module}_{factor}", parameter)

    def _shard(self, tensor: Tensor, dim: int | None) -> Tensor:
        return (tensor if dim is None else tensor.chunk(self.tp.size, dim)[self.tp.rank]).clone()

    def attach(self, weight: Tensor, sequence_parallel: bool) -> None:
        """Adopt device, dtype and sequence parallelism of the fused matrix.

        Args:
            weight: The weights of the matrix, [out, in] of this rank in any float dtype.
            sequence_parallel: Whether the ranks split the rows of its input or output.
        """
        self.sequence_parallel = sequence_parallel
        self.to(device=weight.device, dtype=weight.dtype)
        # This factor acts on the rank's own rows; megatron-core sums the gradients of parameters marked so.
        marked = "lora_A" if self.target.layout.partition_dim == 0 else "lora_B"
        for name, parameter in self.named_parameters():
            parameter.sequence_parallel = sequence_parallel and name.endswith(marked)  # type: ignore[attr-defined]

    def factors(self, factor: str) -> list[Tensor]:
        """This rank's shards of the A [r, in] or B [out, r] weights of every adapter, in the matrix's dtype."""
        return [getattr(self, f"{module}_{factor}") for module in self.target.adapted]

    def forward(self, x: Tensor) -> Tensor:
        """Compute what the adapters add to the output activations of the matrix.

        Args:
            x: The input of the matrix [T, 1, in] in the dtype of the weights.

        Returns:
            [T, 1, rows] in the same dtype.
        """
        between = self._between(x) * self.scale
        if self.target.layout.partition_dim == 0:
            communicate = (
                gather_from_sequence_parallel_region if self.sequence_parallel else copy_to_tensor_model_parallel_region
            )
        else:
            communicate = (
                reduce_scatter_to_sequence_parallel_region
                if self.sequence_parallel
                else reduce_from_tensor_model_parallel_region
            )
        if self.tp.size > 1:
            between = communicate(between)
        return between @ self.target.fused_b(self.factors("lora_B"), self.model, self.tp).t()

    def _between(self, x: Tensor) -> Tensor:
        """The activations between A and B, [T, 1, n r]; each adapter has a dropout mask of its own."""
        a = self.factors("lora_A")
        if not (self.training and self.dropout):
            return x @ self.target.fused_a(a).t()
        keep_probability = 1 - self.dropout
        # With sequence parallelism, or a split input, every rank sees different inputs and needs different numbers.
        split = self.sequence_parallel or self.target.layout.partition_dim == 1
        outputs = []
        for factor in a:
            mask = self._stream.draw(x, split) < keep_probability
            outputs.append((x * mask / keep_probability) @ factor.t())
        return torch.cat(outputs, dim=-1)

    def delta_weight(self) -> Tensor:
        """Compute scale B A [rows, in] float32, the change of this rank's weights when adapters are merged."""
        with torch.no_grad():
            b = self.target.fused_b([t.float() for t in self.factors("lora_B")], self.model, self.tp)
            return self.scale * (b @ self.target.fused_a([t.float() for t in self.factors("lora_A")]))

    def named_factors(self) -> Iterator[tuple[str, str, int | None]]:
        """For each parameter: its local name, PEFT's name without prefix, and the dim along which ranks split it."""
        for module in self.target.adapted:
            path = self.target.hf_module(module, self.layer)
            for factor in FACTORS:
                yield f"{module}_{factor}", f"{path}.{factor}.weight", self.target.split_dim(factor)

    def load(self, source: AdapterSource) -> None:
        """Load this rank's shards of stored adapters."""
        with torch.no_grad():
            for name, stored, dim in self.named_factors():
                getattr(self, name).copy_(self._shard(source.tensors[stored], dim))
