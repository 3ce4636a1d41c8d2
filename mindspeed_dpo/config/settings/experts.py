"""The mixture-of-experts part of an architecture: the experts, the router's rule, and which layers have them.

`ModelConfig` extends it, so that these are keys of a model file like all others.
"""

from __future__ import annotations

from dataclasses import dataclass

from mindspeed_dpo.config.settings.setting import POSITIVE, ValueCheck, at_least, setting


@dataclass(frozen=True, kw_only=True)
class ExpertConfig:
    """Experts and router; with `num_experts: null` every layer has a dense feed-forward layer."""

    num_experts: int | None = setting(
        None,
        help="Number of routed experts of a layer; null or 0 is a dense model.",
        check=ValueCheck(lambda value: value == 0 or value >= 2, "at least 2, or 0"),
    )
    moe_router_topk: int = setting(2, help="Number of routed experts that compute a token.", check=at_least(1))
    moe_ffn_hidden_size: int = setting(
        derived="ffn_hidden_size",
        help="Width of one routed expert (also spelled moe_intermediate_size).",
        check=at_least(1),
    )
    first_k_dense_replace: int = setting(
        0, help="Number of first layers that are dense instead of having experts.", unit="layers", check=at_least(0)
    )
    moe_layer_freq: int = setting(
        1,
        help="Only layers whose number, counted from 0, is a multiple of this have experts; -1 means 1.",
        check=ValueCheck(lambda value: value == -1 or value >= 1, "at least 1, or -1"),
    )
    mlp_only_layers: tuple[int, ...] = setting((), help="Numbers of further layers that are dense, counted from 0.")
    n_shared_experts: int = setting(
        0, help="Number of shared experts, of the width of a routed one, that compute every token.", check=at_least(0)
    )
    moe_shared_expert_intermediate_size: int = setting(
        derived="n_shared_experts x moe_ffn_hidden_size",
        help="Width of all shared experts together; 0 for none.",
        check=at_least(0),
    )
    shared_expert_gate: bool = setting(
        False, help="Multiply the output of the shared experts by a learned sigmoid gate (Qwen2-MoE)."
    )
    moe_router_score_function: str = setting(
        "softmax", help="How logits of the router become scores.", choices=("softmax", "sigmoid")
    )
    moe_router_enable_expert_bias: bool = setting(
        False, help="Experts are chosen by their score plus a bias, which does not weigh their outputs (DeepSeek-V3)."
    )
    moe_router_num_groups: int = setting(
        1, help="Number of groups of experts; a token's experts are in the best groups only.", check=at_least(1)
    )
    moe_router_group_topk: int = setting(1, help="Number of groups that a token's experts are in.", check=at_least(1))
    norm_topk_prob: bool = setting(False, help="Divide the scores of the chosen experts by their sum.")
    moe_router_topk_scaling_factor: float = setting(
        1.0, help="Factor on the scores of the chosen experts.", check=POSITIVE
    )

    @property
    def has_experts(self) -> bool:
        """Whether any layer has experts."""
        return self.num_experts is not None

    def is_moe_layer(self, layer: int) -> bool:
        """Whether a layer, counted from 0 in the model, has experts."""
        return (
            self.has_experts
            and layer >= self.first_k_dense_replace
            and layer % self.moe_layer_freq == 0
            and layer not in self.mlp_only_layers
        )
