"""The training of the routers of a model: with losses of their own, by the load of their experts, or not at all."""

from __future__ import annotations

import torch
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.config.settings.router_training import RouterConfig
from mindspeed_dpo.models.moe.balance_loss import BalanceLoss
from mindspeed_dpo.models.moe.expert_load import RouterLoad, RouterObserver
from mindspeed_dpo.models.moe.moe_layer import MoeTransformerLayer
from mindspeed_dpo.models.moe.router import Router
from mindspeed_dpo.models.virtual_stages import PipelineStage


def train_routers(stage: PipelineStage, model: ModelConfig, settings: RouterConfig) -> None:
    """Set the losses of the routers of a trained model, or freeze them; does nothing to a dense model."""
    if not model.has_experts:
        return
    for chunk in stage.chunks:
        chunk.routing = RouterObserver(RouterLoad(model), bias_update_rate=settings.moe_router_bias_update_rate)
        if settings.has_losses:
            chunk.routing.balance = BalanceLoss(model, settings)
        for module in chunk.modules():
            if isinstance(module, Router) and settings.freeze_moe_router:
                module.weight.requires_grad_(False)


def follow_load(stage: PipelineStage, counts: Tensor, rate: float) -> None:
    """Raise the correction bias of experts with less than the mean load of a step by `rate`, and lower that of others.

    DeepSeek-V3's balancing without a loss (arXiv:2408.15664, algorithm 1).

    Args:
        stage: The stage, whose routers have a bias.
        counts: [layers of the model, experts] int64 tokens of each expert in the step, over all ranks.
        rate: Change of a bias in a step.
    """
    for chunk in stage.chunks:
        for layer in chunk.decoder.layers:
            bias = layer.mlp.router.expert_bias if isinstance(layer, MoeTransformerLayer) else None
            if bias is not None:
                bias.copy_(updated_bias(bias, counts[layer.layer_number - 1], rate))


def updated_bias(bias: Tensor, load: Tensor, rate: float) -> Tensor:
    """Return the bias [E] float32 of E experts after a step with a load of [E] int64 tokens, changed by `rate` each."""
    # Compared as integers, so that rounding does not affect an expert with exactly the mean load.
    return bias + rate * torch.sign(load.sum() - load * len(load)).to(bias.dtype)
