"""Number format of a model, and activations that are recomputed."""

from __future__ import annotations

from dataclasses import dataclass

from mindspeed_dpo.config.settings.setting import at_least, setting


@dataclass(frozen=True, kw_only=True)
class PrecisionConfig:
    """Number format of weights and activations; gradients and optimizer state are always float32."""

    bf16: bool = setting(False, help="Compute in bfloat16 instead of float32.")
    fp16: bool = setting(
        False, help="Compute in float16.", refused={True: "float16 is not implemented yet; use bf16: true"}
    )
    use_deter_comp: bool = setting(
        False,
        help="Use deterministic kernels (also spelled npu_deterministic); operations without one log a warning.",
    )

    @property
    def dtype(self) -> str:
        """The name of the number format: `bfloat16` or `float32`."""
        return "bfloat16" if self.bf16 else "float32"


@dataclass(frozen=True, kw_only=True)
class RecomputeConfig:
    """Activations that are recomputed in the backward pass instead of being stored."""

    recompute_granularity: str | None = setting(
        None,
        help="Scope of recomputation: full recomputes complete layers, selective only attention, null nothing.",
        choices=("full", "selective"),
    )
    recompute_method: str | None = setting(
        None,
        help="With full: uniform recomputes all layers in groups, block recomputes the first layers of each stage.",
        choices=("uniform", "block"),
    )
    recompute_num_layers: int | None = setting(
        None,
        help="With full: layers per group (uniform) or recomputed layers per stage (block).",
        unit="layers",
        check=at_least(1),
    )
