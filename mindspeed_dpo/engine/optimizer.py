"""megatron-core's data-parallel wrapper and optimizer: AdamW with decoupled decay, float32 masters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
from megatron.core.optimizer import get_megatron_optimizer

from mindspeed_dpo.config.settings.optimizer_and_schedule import OptimizerConfig
from mindspeed_dpo.config.settings.parallel_sizes_and_timeout import ParallelConfig
from mindspeed_dpo.models.virtual_stages import PipelineStage


def wrap(model: PipelineStage, parallel: ParallelConfig) -> list[DistributedDataParallel]:
    """Wrap the chunks of a loaded model for data parallelism and set the hooks on the model's config."""
    settings = DistributedDataParallelConfig(
        use_distributed_optimizer=parallel.use_distributed_optimizer,
        overlap_grad_reduce=parallel.overlap_grad_reduce,
        overlap_param_gather=parallel.overlap_param_gather,
        grad_reduce_in_fp32=True,
        average_in_collective=False,
    )
    wrapped = [
        # The first chunk's gradient is complete last, when no computation is left to overlap its reduction with.
        DistributedDataParallel(chunk.config, settings, chunk, disable_bucketing=number > 0)
        for number, chunk in enumerate(model.chunks)
    ]
    config = model.config
    # Without this hook gradients are never reduced over data-parallel ranks, without any error.
    config.finalize_model_grads_func = finalize_model_grads
    config.no_sync_func = _no_sync_of(wrapped)
    if parallel.overlap_grad_reduce:
        starts = [chunk.start_grad_sync for chunk in wrapped]
        config.grad_sync_func = starts if len(starts) > 1 else starts[0]
    return wrapped


def _no_sync_of(wrapped: Sequence[DistributedDataParallel]) -> Any:
    @contextmanager
    def no_sync() -> Iterator[None]:
        with ExitStack() as stack:
            for chunk in wrapped:
                stack.enter_context(chunk.no_sync())
            yield

    return no_sync


def build_optimizer(
    wrapped: Sequence[DistributedDataParallel], settings: OptimizerConfig, parallel: ParallelConfig
) -> Any:
    """Build megatron-core's optimizer. The weights must be loaded, as float32 masters are cloned from them."""
    config = wrapped[0].config
    return get_megatron_optimizer(
        MegatronOptimizerConfig(
            optimizer="adam",
            lr=settings.lr,
            # The library's default, None, raises in its scheduler.
            min_lr=0.0,
            weight_decay=settings.weight_decay,
            adam_beta1=settings.adam_beta1,
            adam_beta2=settings.adam_beta2,
            adam_eps=settings.adam_eps,
            clip_grad=settings.clip_grad,
            bf16=config.bf16,
            params_dtype=config.params_dtype,
            use_distributed_optimizer=parallel.use_distributed_optimizer,
            overlap_param_gather=parallel.overlap_param_gather,
        ),
        list(wrapped),
        use_gloo_process_groups=False,
    )


def set_rates(optimizer: Any, learning_rate: float, weight_decay: float) -> None:
    """Set the learning rate and the weight decay of every parameter group.

    megatron-core stores in `wd_mult` that norms and biases are not decayed; its scheduler, which is not used here,
    would apply it.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["lr_mult"]
        group["weight_decay"] = weight_decay * group["wd_mult"]
