"""The adapters of a matrix of all experts that a rank holds: initialisation, forward pass, merging.

Letters: m rows, g experts of this rank, E experts of the layer, r rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from megatron.core.tensor_parallel import set_tensor_model_parallel_attributes
from torch import Tensor, nn

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.device import ops
from mindspeed_dpo.models.lora.dropout import derive_seed
from mindspeed_dpo.models.lora.layer import AdapterSwitch
from mindspeed_dpo.weights.lora.adapter_source import AdapterSource
from mindspeed_dpo.weights.lora.targets import EXPERT_PARAMETERS, FACTORS, ExpertTarget


class ExpertLoraLayer(nn.Module):
    """One adapter for each expert of this rank; experts are never divided, and neither are their adapters.

    Attributes:
        lora_A: [g, r, in] parameter.
        lora_B: [g, out, r] parameter.
        experts: Indices of the experts in their layer.
    """

    lora_A: nn.Parameter
    lora_B: nn.Parameter

    def __init__(
        self, target: ExpertTarget, layer: int, model: ModelConfig, experts: range, switch: AdapterSwitch, seed: int
    ) -> None:
        """Initialise as PEFT does, with A uniform within 1 / sqrt(in) and B zero, whatever the parallel layout.

        Args:
            target: The matrices.
            layer: Global index of their layer.
            model: The architecture.
            experts: The experts of this rank.
            switch: Shared by the adapters of the model.
            seed: Seed of the run.
        """
        super().__init__()
        self.target, self.layer, self.experts, self.switch = target, layer, experts, switch
        (_, *a), (_, *b) = target.shapes(model)
        bound, number = 1 / math.sqrt(a[1]), list(EXPERT_PARAMETERS.values()).index(target.parameter)
        drawn = []
        for expert in experts:
            # The leading 1 keeps these seeds apart from those of adapters of other matrices.
            generator = torch.Generator().manual_seed(derive_seed(1, seed, layer, number, expert))
            drawn.append(torch.empty(a).uniform_(-bound, bound, generator=generator))
        self.lora_A = nn.Parameter(torch.stack(drawn))
        self.lora_B = nn.Parameter(torch.zeros(len(experts), *b))

    def attach(self, weight: Tensor) -> None:
        """Adopt device and dtype of the experts' matrices, [g, out, in] in any float dtype, and their reduction."""
        self.to(device=weight.device, dtype=weight.dtype)
        for parameter in self.parameters():
            # Marked as the expert matrices themselves are in `GroupedLinear`.
            parameter.allreduce = False  # type: ignore[attr-defined]
            set_tensor_model_parallel_attributes(parameter, True, 0, 1)

    def forward(self, rows: Tensor, counts: Tensor) -> Tensor:
        """Compute what the adapters add: rows [m, in] of any float dtype, in expert order, to [m, out]; counts [g]."""
        between = ops.grouped_linear(rows, self.lora_A, counts) * self.target.scale
        return ops.grouped_linear(between, self.lora_B, counts)

    def delta_weight(self) -> Tensor:
        """Compute scale B A [g, out, in] float32, the change of this rank's weights when adapters are merged."""
        with torch.no_grad():
            return self.target.scale * (self.lora_B.float() @ self.lora_A.float())

    def named_factors(self) -> Iterator[tuple[str, str]]:
        """For each parameter: its local name, and its name in checkpoints, where it holds all experts of the layer."""
        for factor in FACTORS:
            yield factor, f"{self.target.hf_module(self.layer)}.{factor}.weight"

    def load(self, source: AdapterSource) -> None:
        """Load the adapters of this rank's experts from stored ones, [E, r, in] and [E, out, r]."""
        with torch.no_grad():
            for name, stored in self.named_factors():
                getattr(self, name).copy_(source.tensors[stored][self.experts.start : self.experts.stop])
