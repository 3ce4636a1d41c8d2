"""The experts of a layer that this rank holds, as two grouped matrix products.

Letters: m rows, g experts of this rank, h hidden size, f width of an expert.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from megatron.core.tensor_parallel import set_tensor_model_parallel_attributes
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.device import ops
from mindspeed_dpo.parallel.expert_parallel import ExpertGroup


class GroupedLinear(nn.Module):
    """A matrix for each expert of this rank, without biases.

    Attributes:
        weight: [g, out, in] parameter. Its gradient is reduced over the ranks that hold the same experts, which
            megatron-core does for parameters with the attribute `allreduce` false. The attributes of a tensor-parallel
            parameter make the gradient norm count it on every rank.
    """

    def __init__(self, config: Any, group: ExpertGroup, num_experts: int, inputs: int, outputs: int) -> None:
        """Create the parameter, uninitialised unless `config.perform_initialization`.

        Args:
            config: megatron-core's config of the model.
            group: The ranks that share the experts.
            num_experts: Experts of the layer over all ranks.
            inputs: Columns of a matrix.
            outputs: Rows of a matrix.
        """
        super().__init__()
        self.group = group
        device = "cpu" if config.use_cpu_initialization else torch.cuda.current_device()
        local = group.local_experts(num_experts)
        weight = torch.empty(len(local), outputs, inputs, dtype=config.params_dtype, device=device)
        if config.perform_initialization:
            # Every rank draws all experts, so that the weights are independent of how ranks share them.
            for expert in range(num_experts):
                drawn = torch.empty_like(weight[0]).normal_(0.0, config.init_method_std)
                if expert in local:
                    weight[expert - local.start] = drawn
        self.weight = nn.Parameter(weight)
        self.weight.allreduce = False  # type: ignore[attr-defined]
        set_tensor_model_parallel_attributes(self.weight, True, 0, 1)

    def forward(self, rows: Tensor, counts: Tensor) -> Tensor:
        """Multiply rows [m, in] of any float dtype, in the order of the experts, to [m, out]; counts [g] int64."""
        return ops.grouped_linear(rows, self.weight, counts)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[tuple[int, int, int], ...] = (), metadata: Any = None
    ) -> dict[str, ShardedTensor]:
        """Describe the parameter for a distributed checkpoint: [experts of the layer, out, in], split by expert."""
        offsets, axes = list(sharded_offsets), len(sharded_offsets)
        key = f"{prefix}weight"
        copy = parallel_state.get_expert_data_parallel_rank()
        by_expert = (axes, self.group.rank, self.group.size)
        return {
            key: ShardedTensor.from_rank_offsets(
                key, self.weight, *offsets, by_expert, replica_id=(0, 0, copy), prepend_axis_num=axes
            )
        }


class GroupedExperts(MegatronModule):
    """The gated feed-forward layers of this rank's experts."""

    def __init__(self, config: Any, model: ModelConfig, group: ExpertGroup) -> None:
        """Create the experts of this rank."""
        super().__init__(config)
        count, hidden, width = model.num_experts or 0, model.hidden_size, model.moe_ffn_hidden_size
        self.linear_fc1 = GroupedLinear(config, group, count, hidden, 2 * width)
        self.linear_fc2 = GroupedLinear(config, group, count, width, hidden)

    def forward(self, rows: Tensor, counts: Tensor) -> Tensor:
        """Compute the experts' outputs.

        Args:
            rows: [m, h] activations of any float dtype, in the order of the experts.
            counts: [g] int64 number of rows of each expert.

        Returns:
            [m, h] in the same dtype.
        """
        return self.linear_fc2(ops.swiglu(self.linear_fc1(rows, counts)), counts)
