"""The optimizer and the learning-rate schedule."""

from __future__ import annotations

from dataclasses import dataclass

from mindspeed_dpo.config.settings.setting import POSITIVE, at_least, setting, within

_UNIMPLEMENTED_SCHEDULE = "this schedule is not implemented yet; choose constant, linear or cosine"


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam with decoupled weight decay, and its learning-rate schedule."""

    lr: float = setting(help="Peak learning rate.", check=at_least(0))
    min_lr: float = setting(0.0, help="Learning rate at the end of the decay.", check=at_least(0))
    lr_decay_style: str = setting(
        "linear",
        help="Shape of the decay after warm-up.",
        choices=("constant", "linear", "cosine"),
        refused=dict.fromkeys(("inverse-square-root", "WSD"), _UNIMPLEMENTED_SCHEDULE),
    )
    lr_warmup_fraction: float | None = setting(
        None,
        help="Length of the warm-up as a fraction of lr_decay_iters; an alternative to lr_warmup_iters.",
        check=within(0, 1),
    )
    lr_warmup_iters: int = setting(0, help="Length of the warm-up.", unit="steps", check=at_least(0))
    lr_decay_iters: int = setting(
        derived="train_iters", help="Step at which the decay ends, warm-up included.", unit="steps", check=at_least(1)
    )
    weight_decay: float = setting(
        0.01, help="Decoupled weight decay; biases and norms are excluded.", check=at_least(0)
    )
    clip_grad: float = setting(
        1.0, help="Maximum global L2 norm of the gradient; 0 disables clipping.", check=at_least(0)
    )
    adam_beta1: float = setting(0.9, help="Decay rate of Adam's first moment.", check=within(0, 1))
    adam_beta2: float = setting(0.999, help="Decay rate of Adam's second moment.", check=within(0, 1))
    adam_eps: float = setting(1e-8, help="Epsilon added to the square root of Adam's second moment.", check=POSITIVE)
    optimizer_offload: bool = setting(
        False,
        help="Keep the optimizer state (Adam's moments and, with bf16, the float32 weights) in host memory and copy it "
        "to the device only for each update, after the activations are freed.",
    )
