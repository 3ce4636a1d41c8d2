"""How a model is laid over devices: parallel sizes, number format, recomputation. Settings only, no process groups."""

from __future__ import annotations

from dataclasses import dataclass

from mindspeed_dpo.config.settings.field import at_least, setting

ULYSSES = "ulysses_cp_algo"
OTHER_CONTEXT_ALGORITHMS = (
    "megatron_cp_algo",
    "hybrid_cp_algo",
    "adaptive_cp_algo",
    "hybrid_adaptive_cp_algo",
    "kvallgather_cp_algo",
)
"""MindSpeed's, which cut sequences in other ways."""


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """Parallel sizes of one role. The data-parallel size follows: pool / (tensor x context x pipeline)."""

    tensor_model_parallel_size: int = setting(
        1, help="Devices over which every matrix is split.", unit="devices", check=at_least(1)
    )
    pipeline_model_parallel_size: int = setting(
        1, help="Stages into which the layers are split.", unit="devices", check=at_least(1)
    )
    num_layers_per_virtual_pipeline_stage: int | None = setting(
        None,
        help="Layers of a virtual stage: each pipeline device has several, in turns with the others, and waits less "
        "at a step's ends. Splits micro-batches where a step has fewer than stages; null: one stage a device.",
        unit="layers",
        check=at_least(1),
    )
    context_parallel_size: int = setting(
        1,
        help="Devices over which the tokens of a micro-batch are split; during attention its heads are instead.",
        unit="devices",
        check=at_least(1),
    )
    context_parallel_algo: str = setting(
        ULYSSES,
        help="How context-parallel devices attend: all-to-all over heads is the one that is implemented.",
        choices=(ULYSSES, *OTHER_CONTEXT_ALGORITHMS),
    )
    sequence_parallel: bool = setting(
        False, help="Split norms and residuals along tokens over the tensor-parallel devices; off where those are 1."
    )
    use_distributed_optimizer: bool = setting(
        False, help="Split optimizer state over the data- and context-parallel devices."
    )
    overlap_grad_reduce: bool = setting(False, help="Reduce gradients while the backward pass still runs.")
    overlap_param_gather: bool = setting(
        False, help="Gather updated weights while the forward pass already runs; needs use_distributed_optimizer."
    )
    distributed_timeout_minutes: int = setting(
        45, help="A collective that takes longer counts as failed.", unit="minutes", check=at_least(1)
    )
    distributed_backend: str = setting(
        "auto",
        help="Transport of collectives; auto and nccl mean the device's own (HCCL on NPU), gloo runs on the CPU.",
        choices=("auto", "nccl", "hccl", "gloo"),
    )

    @property
    def is_interleaved(self) -> bool:
        """Whether a device has several virtual stages."""
        return self.num_layers_per_virtual_pipeline_stage is not None


@dataclass(frozen=True, kw_only=True)
class PrecisionConfig:
    """Number format of weights and activations; gradients and optimizer state are float32 either way."""

    bf16: bool = setting(False, help="Compute in bfloat16; otherwise in float32.")
    fp16: bool = setting(
        False, help="Compute in float16.", not_yet={True: "float16 is not implemented yet; use bf16: true"}
    )
    use_deter_comp: bool = setting(
        False, help="Ask for kernels that give the same bits every time (also spelled npu_deterministic); others warn."
    )

    @property
    def dtype(self) -> str:
        """`bfloat16` or `float32`."""
        return "bfloat16" if self.bf16 else "float32"


@dataclass(frozen=True, kw_only=True)
class RecomputeConfig:
    """What the backward pass computes again instead of keeping."""

    recompute_granularity: str | None = setting(
        None, help="full: whole layers; selective: attention only; null: nothing.", choices=("full", "selective")
    )
    recompute_method: str | None = setting(
        None,
        help="With full: uniform groups of layers, or a block of the first layers of each stage.",
        choices=("uniform", "block"),
    )
    recompute_num_layers: int | None = setting(
        None, help="With full: layers in a group (uniform) or in the block.", unit="layers", check=at_least(1)
    )
