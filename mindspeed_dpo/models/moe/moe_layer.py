"""The feed-forward part of a layer with experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.models.moe.grouped_experts import GroupedExperts
from mindspeed_dpo.models.moe.router import Router, Routing
from mindspeed_dpo.models.moe.shared_experts import SharedExperts
from mindspeed_dpo.models.moe.token_dispatch import TokenDispatch
from mindspeed_dpo.parallel.expert_parallel import ExpertGroup


class MoeLayer(MegatronModule):
    """Router, routed experts and shared experts; the sum of what they compute.

    With tensor parallelism rows must be split by sequence parallelism: each rank routes its own rows.

    Attributes:
        observe: Counts the choices, and adds the gradient of losses of the routing to that of the output; set for the
            duration of a layer's forward pass.
    """

    observe: Callable[[Tensor, Routing], Tensor] | None = None
    shared_experts: SharedExperts | None

    def __init__(self, config: Any, model: ModelConfig) -> None:
        """Create the layer on this rank of the expert-parallel group of the process."""
        super().__init__(config)
        group = ExpertGroup.current()
        self.router = Router(config, model)
        self.experts = GroupedExperts(config, model, group)
        self.dispatch = TokenDispatch(group, model.num_experts or 0)
        has_shared = model.moe_shared_expert_intermediate_size > 0
        self.shared_experts = SharedExperts(config, model) if has_shared else None

    def forward(self, hidden: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, None]:
        """Map activations [t, 1, h] of any float dtype to the same shape and dtype; there is no bias.

        A collective of the expert-parallel group, even without any row.
        """
        rows = hidden.squeeze(1)
        routing = self.router(rows)
        output = self.dispatch.apply(self.experts, rows, routing)[:, None]
        if self.observe is not None:
            output = self.observe(output, routing)
        return output if self.shared_experts is None else output + self.shared_experts(hidden)[0], None


class MoeTransformerLayer(TransformerLayer):
    """megatron-core's layer, which passes nothing about the micro-batch to its feed-forward part."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the layer as the base class does, with the observer that `packed_seq_params` holds."""
        observe = kwargs["packed_seq_params"].observe_routing
        self.mlp.observe = None if observe is None else partial(observe, layer=self.layer_number - 1)
        try:
            return super().forward(*args, **kwargs)
        finally:
            self.mlp.observe = None


@dataclass(frozen=True)
class MoeLayerSpec:
    """The specification that megatron-core builds the layer from.

    It is not a `ModuleSpec`, for which megatron-core would add arguments by its own kinds of feed-forward layers.
    """

    params: dict[str, ModelConfig]
    module: type[MoeLayer] = field(default=MoeLayer)
