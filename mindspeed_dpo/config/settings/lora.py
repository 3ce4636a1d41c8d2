"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685), trained instead of the model's weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mindspeed_dpo.config.settings.setting import POSITIVE, at_least, setting, within

FUSED_MODULES: dict[str, tuple[str, ...]] = {
    "linear_qkv": ("q_proj", "k_proj", "v_proj"),
    "linear_proj": ("o_proj",),
    "linear_fc1": ("gate_proj", "up_proj"),
    "linear_fc2": ("down_proj",),
}
"""Megatron's linear layers, and the Hugging Face modules that each consists of, in the order of its rows."""
ALL_LINEAR = "all-linear"
LORA_MODULES = tuple(module for parts in FUSED_MODULES.values() for module in parts)
"""Hugging Face's names of the modules that can have an adapter."""
LORA_TARGETS = (*FUSED_MODULES, *LORA_MODULES, ALL_LINEAR)
"""Every accepted item of `lora_target_modules`."""
GATE_UP, DOWN = "gate_up_proj", "down_proj"
"""Names of transformers 5 for the matrices of all experts of a layer, each one parameter."""
EXPERT_TARGETS = tuple(f"mlp.experts.{name}" for name in (GATE_UP, DOWN, "gate_proj", "up_proj"))
"""Every accepted item of `lora_target_parameters`."""


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """The modules that have an adapter, and its shape: W x becomes W x + scale B A x."""

    lora_target_modules: tuple[str, ...] = setting(
        (),
        help="Modules with a trained adapter, everything else being frozen; empty trains all weights. Accepted are "
        f"Megatron's names ({', '.join(FUSED_MODULES)}), Hugging Face's ({', '.join(LORA_MODULES)}) and {ALL_LINEAR}. "
        "Each Hugging Face module has its own adapter, also where Megatron fuses several into one matrix. With "
        "experts, gate_proj with up_proj, and down_proj, are also those of the shared and of the routed experts.",
    )
    lora_target_parameters: tuple[str, ...] = setting(
        (),
        help="Matrices of the routed experts with a trained adapter for each expert, beside the modules above: "
        f"{', '.join(EXPERT_TARGETS)}. gate_up_proj has one adapter of rank lora_r for both matrices of an expert; "
        "gate_proj with up_proj has one of twice the rank, as PEFT translates lora_target_modules.",
    )
    lora_r: int = setting(16, help="Rank of the adapters.", check=at_least(1))
    lora_alpha: float = setting(32.0, help="Numerator of the adapters' scale, lora_alpha / lora_r.", check=POSITIVE)
    lora_dropout: float = setting(
        0.0,
        help="Dropout probability on the input of an adapter during training.",
        check=within(0, 1),
    )
    use_rslora: bool = setting(
        False, help="Use the scale lora_alpha / sqrt(lora_r) instead (rank-stabilised LoRA, arXiv:2312.03732)."
    )
    lora_load: str | None = setting(
        None,
        help="Directory of an adapter in PEFT format to start from; null starts from a zero adapter.",
        is_path=True,
    )

    @property
    def is_on(self) -> bool:
        """Whether adapters are trained."""
        return bool(self.lora_target_modules or self.lora_target_parameters)

    @property
    def modules(self) -> tuple[str, ...]:
        """Hugging Face names of the modules with an adapter, in the order of `LORA_MODULES`; unknown names omitted."""
        targets = set(self.lora_target_modules)
        selected = targets | {part for fused in targets & set(FUSED_MODULES) for part in FUSED_MODULES[fused]}
        return tuple(module for module in LORA_MODULES if module in selected or ALL_LINEAR in targets)

    @property
    def expert_matrices(self) -> frozenset[str]:
        """Hugging Face names of the matrices of routed experts with an adapter, of a model that has experts."""
        listed = {target.rsplit(".", 1)[-1] for target in self.lora_target_parameters}
        return frozenset(listed | (set(self.modules) & {"gate_proj", "up_proj", DOWN}))

    @property
    def expert_ranks(self) -> dict[str, int]:
        """Rank of the adapters of each adapted parameter of the routed experts, `gate_up_proj` or `down_proj`.

        Adapters of the gate and of the up matrix are, as in PEFT, one adapter of both with twice the rank.
        """
        names, ranks = self.expert_matrices, {}
        if GATE_UP in names:
            ranks[GATE_UP] = self.lora_r
        elif {"gate_proj", "up_proj"} <= names:
            ranks[GATE_UP] = 2 * self.lora_r
        if DOWN in names:
            ranks[DOWN] = self.lora_r
        return ranks

    @property
    def scale(self) -> float:
        """The factor on B A, unitless."""
        return self.scale_of_rank(self.lora_r)

    def scale_of_rank(self, rank: int) -> float:
        """Return the factor on B A of an adapter whose rank is a multiple of `lora_r`, and alpha with it."""
        alpha = self.lora_alpha * rank / self.lora_r
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def is_compatible_with(self, other: AdapterConfig) -> bool:
        """Return whether adapters of both settings have the same modules, rank and scale."""
        mine, theirs = ((one.modules, one.lora_r, one.scale, one.expert_ranks) for one in (self, other))
        return mine == theirs
