"""Training of the routers of a model with experts: auxiliary losses, or none at all."""

from __future__ import annotations

from dataclasses import dataclass

from mindspeed_dpo.config.settings.setting import at_least, setting


@dataclass(frozen=True, kw_only=True)
class RouterConfig:
    """Losses that balance the load of the experts. They are added to the loss of a pair in every layer with experts."""

    moe_aux_loss_coeff: float = setting(
        0.0,
        help="Weight of the balance loss of each sequence (DeepSeek-V3, arXiv:2412.19437, equations 17 to 20), whose "
        "value is 1 for a balanced load. Mean over the responses of a pair, sum over layers.",
        check=at_least(0),
    )
    router_aux_loss_coef: float = setting(
        0.0,
        help="Weight of the balance loss as transformers and TRL compute it, pooled over all layers and over the "
        "responses of a pair; moe_router_topk for a balanced load. Not with pipeline stages.",
        check=at_least(0),
    )
    moe_z_loss_coeff: float = setting(
        0.0,
        help="Weight of the z-loss of each sequence, the mean square of the log-sum-exp of the router's logits.",
        check=at_least(0),
    )
    moe_router_bias_update_rate: float = setting(
        0.0,
        help="Change per step of the bias by which experts are chosen: up for those with less than the mean load, "
        "down for those with more (DeepSeek-V3, arXiv:2408.15664; Megatron's default is 0.001). 0 freezes it.",
        check=at_least(0),
    )
    freeze_moe_router: bool = setting(False, help="Do not train the weights of the routers.")

    @property
    def has_losses(self) -> bool:
        """Whether a loss is added."""
        return max(self.moe_aux_loss_coeff, self.router_aux_loss_coef, self.moe_z_loss_coeff) > 0
