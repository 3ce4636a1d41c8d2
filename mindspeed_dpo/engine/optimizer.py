"""megatron-core's wrapper and optimizer around one model: AdamW with decoupled decay, float32 masters, clipping."""

from __future__ import annotations

from typing import Any

from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
from megatron.core.optimizer import get_megatron_optimizer
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32

from mindspeed_dpo.config.learning import OptimizerConfig
from mindspeed_dpo.config.machine import ParallelConfig
from mindspeed_dpo.models.policy import PolicyModel


def wrap(model: PolicyModel, parallel: ParallelConfig) -> DistributedDataParallel:
    """The data-parallel wrapper of a loaded model, with its hooks on the model's config set."""
    config = model.config
    wrapped = DistributedDataParallel(
        config,
        DistributedDataParallelConfig(
            use_distributed_optimizer=parallel.use_distributed_optimizer,
            overlap_grad_reduce=parallel.overlap_grad_reduce,
            overlap_param_gather=parallel.overlap_param_gather,
            grad_reduce_in_fp32=True,
            average_in_collective=False,
        ),
        model,
    )
    # Without this one gradients are never reduced over data-parallel ranks, and nothing complains.
    config.finalize_model_grads_func = finalize_model_grads
    config.no_sync_func = wrapped.no_sync
    if parallel.overlap_grad_reduce:
        config.grad_sync_func = wrapped.start_grad_sync
    return wrapped


def build_optimizer(wrapped: DistributedDataParallel, settings: OptimizerConfig, parallel: ParallelConfig) -> Any:
    """megatron-core's optimizer; build it after the weights are loaded, it clones its float32 masters from them."""
    return get_megatron_optimizer(
        MegatronOptimizerConfig(
            optimizer="adam",
            lr=settings.lr,
            # None, the library's default, fails in its arithmetic.
            min_lr=0.0,
            weight_decay=settings.weight_decay,
            adam_beta1=settings.adam_beta1,
            adam_beta2=settings.adam_beta2,
            adam_eps=settings.adam_eps,
            clip_grad=settings.clip_grad,
            bf16=wrapped.config.bf16,
            params_dtype=wrapped.config.params_dtype,
            use_distributed_optimizer=parallel.use_distributed_optimizer,
            overlap_param_gather=parallel.overlap_param_gather,
        ),
        [wrapped],
    )


def set_rates(optimizer: Any, learning_rate: float, weight_decay: float) -> None:
    """Set learning rate and decay of every parameter group.

    megatron-core only notes in a group that norms and biases are not decayed; its scheduler, which we do not use, would
    apply that.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["lr_mult"]
        group["weight_decay"] = weight_decay * group["wd_mult"]


def clip(optimizer: Any, norm: float) -> None:
    """Scale the gradients by min(1, clip_grad / (norm + 1e-6)), where clipping is on."""
    for inner in optimizer.chained_optimizers:
        parameters = [] if getattr(inner, "is_stub_optimizer", False) else inner.get_parameters()
        if parameters and inner.config.clip_grad > 0:
            clip_grad_by_total_norm_fp32(parameters, max_norm=inner.config.clip_grad, total_norm=norm)
