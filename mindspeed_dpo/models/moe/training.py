"""How the routers of a model are trained: with losses of their own, or not at all."""

from __future__ import annotations

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.config.settings.router import RouterConfig
from mindspeed_dpo.models.moe.balance import BalanceLoss
from mindspeed_dpo.models.moe.router import Router
from mindspeed_dpo.models.virtual_stages import PipelineStage


def train_routers(stage: PipelineStage, model: ModelConfig, settings: RouterConfig) -> None:
    """Set the losses of the routers of a trained model, or freeze them; does nothing to a dense model."""
    if not model.has_experts:
        return
    for chunk in stage.chunks:
        if settings.has_losses:
            chunk.balance = BalanceLoss(model, settings)
        for module in chunk.modules():
            if isinstance(module, Router) and settings.freeze_moe_router:
                module.weight.requires_grad_(False)
