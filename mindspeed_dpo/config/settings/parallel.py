"""Distribution of a model over devices: parallel sizes, number format and recomputation."""

from __future__ import annotations

from dataclasses import dataclass

from mindspeed_dpo.config.settings.setting import at_least, setting

EXPERT_LAYOUT_KEYS = ("expert_model_parallel_size", "moe_tp_extend_ep")
"""Keys of how devices share experts; a dense model has none to share, whatever its devices do for another model."""


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """Parallel sizes of one role; the data-parallel size is processes / (tensor x context x pipeline)."""

    tensor_model_parallel_size: int = setting(
        1, help="Tensor-parallel size: devices that share every weight matrix.", unit="devices", check=at_least(1)
    )
    pipeline_model_parallel_size: int = setting(
        1, help="Pipeline-parallel size: stages that the layers are divided into.", unit="devices", check=at_least(1)
    )
    num_layers_per_virtual_pipeline_stage: int | None = setting(
        None,
        help="Layers per virtual pipeline stage; a device then has several stages (interleaved schedule), which "
        "shortens the pipeline bubble. Micro-batches are split if a step has fewer of them than stages. Null gives "
        "each device one stage.",
        unit="layers",
        check=at_least(1),
    )
    context_parallel_size: int = setting(
        1,
        help="Context-parallel size: devices that share the tokens of a micro-batch, and the heads during attention "
        "(Ulysses).",
        unit="devices",
        check=at_least(1),
    )
    expert_model_parallel_size: int = setting(
        1,
        help="Expert-parallel size: devices that share the experts of every layer, each holding as many, undivided. "
        "They may be tensor-, context- or data-parallel devices of one pipeline stage. In `training` it does not "
        "concern a reference or reward model without experts.",
        unit="devices",
        check=at_least(1),
    )
    moe_tp_extend_ep: bool = setting(
        False,
        help="Multiply the expert-parallel size by the tensor-parallel size, as MindSpeed does with this key.",
    )
    sequence_parallel: bool = setting(
        False,
        help="Divide norms and residuals by tokens over the tensor-parallel devices; off if the tensor-parallel size "
        "is 1.",
    )
    use_distributed_optimizer: bool = setting(
        False, help="Shard the optimizer state over the data- and context-parallel devices."
    )
    overlap_grad_reduce: bool = setting(False, help="Reduce gradients while the backward pass is running.")
    overlap_param_gather: bool = setting(
        False,
        help="Gather updated weights while the forward pass is running; requires use_distributed_optimizer.",
    )
    distributed_timeout_minutes: int = setting(
        45, help="Timeout of a collective operation.", unit="minutes", check=at_least(1)
    )

    @property
    def expert_parallel_size(self) -> int:
        """Number of devices that share the experts of a layer."""
        return self.expert_model_parallel_size * (self.tensor_model_parallel_size if self.moe_tp_extend_ep else 1)

    @property
    def is_interleaved(self) -> bool:
        """Whether a device has several virtual pipeline stages."""
        return self.num_layers_per_virtual_pipeline_stage is not None


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
