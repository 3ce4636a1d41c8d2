"""Training with low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685) instead of the weights themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mindspeed_dpo.config.settings.field import POSITIVE, at_least, setting, within

FUSED_MODULES: dict[str, tuple[str, ...]] = {
    "linear_qkv": ("q_proj", "k_proj", "v_proj"),
    "linear_proj": ("o_proj",),
    "linear_fc1": ("gate_proj", "up_proj"),
    "linear_fc2": ("down_proj",),
}
"""Megatron's matrices of a layer, and those of Hugging Face that each is made of, in the order of its rows."""
ALL_LINEAR = "all-linear"
LORA_MODULES = tuple(module for parts in FUSED_MODULES.values() for module in parts)
LORA_TARGETS = (*FUSED_MODULES, *LORA_MODULES, ALL_LINEAR)
"""Every word that `lora_target_modules` may hold."""


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """Which matrices get an adapter, and what it is like: W x becomes W x + scale B A x."""

    lora_target_modules: tuple[str, ...] = setting(
        (),
        help="Train adapters of these matrices and nothing else; empty trains all weights. Megatron's names "
        f"({', '.join(FUSED_MODULES)}), Hugging Face's ({', '.join(LORA_MODULES)}) or {ALL_LINEAR}. Each matrix of Hugging Face has "
        "an adapter of its own, also where Megatron keeps several in one.",
    )
    lora_r: int = setting(16, help="Rank of an adapter.", check=at_least(1))
    lora_alpha: float = setting(32.0, help="Strength of the adapters: scale is lora_alpha / lora_r.", check=POSITIVE)
    lora_dropout: float = setting(
        0.0,
        help="Part of an adapter's inputs left out while learning, never while scoring.",
        check=within(0, 1),
    )
    use_rslora: bool = setting(
        False, help="Scale is lora_alpha / sqrt(lora_r) instead (rank-stabilised, arXiv:2312.03732)."
    )
    lora_load: str | None = setting(
        None, help="Adapter to start from, a directory as PEFT saves it; null starts from one that changes nothing."
    )

    @property
    def is_on(self) -> bool:
        """Whether adapters are trained."""
        return bool(self.lora_target_modules)

    @property
    def modules(self) -> tuple[str, ...]:
        """Hugging Face's names of the matrices with an adapter, in the order of `LORA_MODULES`; unknown ones left out."""
        asked = set(self.lora_target_modules)
        wanted = asked | {part for fused in asked & set(FUSED_MODULES) for part in FUSED_MODULES[fused]}
        return tuple(module for module in LORA_MODULES if module in wanted or ALL_LINEAR in asked)

    @property
    def scale(self) -> float:
        """Factor on B A."""
        return self.lora_alpha / (math.sqrt(self.lora_r) if self.use_rslora else self.lora_r)

    def is_compatible_with(self, other: AdapterConfig) -> bool:
        """Whether adapters of these settings fit those of another and mean the same."""
        mine, theirs = ((one.modules, one.lora_r, one.scale) for one in (self, other))
        return mine == theirs
