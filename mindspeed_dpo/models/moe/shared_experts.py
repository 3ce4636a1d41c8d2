"""The shared experts, which compute every token: one feed-forward layer, with an optional sigmoid gate."""

from __future__ import annotations

import copy
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor, nn

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.models.layers import SwiGLU


class SharedExperts(MLP):
    """megatron-core's feed-forward layer, split over the tensor-parallel ranks like a dense one.

    Attributes:
        gate_weight: [1, h] parameter; None without a gate.
    """

    gate_weight: nn.Parameter | None

    def __init__(self, config: Any, model: ModelConfig) -> None:
        """Create the layer with the width of the shared experts."""
        config = copy.copy(config)
        config.ffn_hidden_size = model.moe_shared_expert_intermediate_size
        submodules = MLPSubmodules(
            linear_fc1=ColumnParallelLinear, activation_func=SwiGLU, linear_fc2=RowParallelLinear
        )
        group = parallel_state.get_tensor_model_parallel_group()
        super().__init__(config, submodules, ffn_hidden_size=config.ffn_hidden_size, tp_group=group)
        self.gate_weight = _gate(config, model.hidden_size) if model.shared_expert_gate else None

    def forward(self, hidden: Tensor, per_token_scale: Tensor | None = None, **_: Any) -> tuple[Tensor, None]:
        """Map activations [t, 1, h] of any float dtype to the same shape and dtype; there is no bias."""
        output, _bias = super().forward(hidden)
        if self.gate_weight is not None:
            output = output * (hidden @ self.gate_weight.t()).sigmoid()
        return output, None

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: Any = None
    ) -> dict[str, Any]:
        """Describe the parameters for a distributed checkpoint; the base class describes those of submodules only."""
        described: dict[str, Any] = super().sharded_state_dict(prefix, sharded_offsets, metadata)
        own = {} if self.gate_weight is None else {"gate_weight": self.gate_weight}
        return described | make_sharded_tensors_for_checkpoint(
            own,
            prefix,
            sharded_offsets=sharded_offsets,
            tp_group=self.tp_group,
            dp_cp_group=parallel_state.get_data_parallel_group(with_context_parallel=True),
        )


def _gate(config: Any, hidden_size: int) -> nn.Parameter:
    """With sequence parallelism each rank gates its own rows, so the gradient is summed over tensor-parallel ranks."""
    device = "cpu" if config.use_cpu_initialization else torch.cuda.current_device()
    weight = torch.empty(1, hidden_size, dtype=config.params_dtype, device=device)
    if config.perform_initialization:
        weight.normal_(0.0, config.init_method_std)
    gate = nn.Parameter(weight)
    gate.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
    return gate
