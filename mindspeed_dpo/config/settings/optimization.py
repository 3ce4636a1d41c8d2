"""Optimizer and learning-rate schedule, reference model, and batch sizes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mindspeed_dpo.config.settings.setting import FRACTION, POSITIVE, at_least, setting, within

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


@dataclass(frozen=True, kw_only=True)
class ReferenceConfig:
    """The frozen reference model that the policy is compared with."""

    reference: str = setting(
        "cached",
        help="Reference log-probabilities: cached computes them once before training and stores them on disk, live "
        "computes them at every step. Online DPO always uses live.",
        choices=("cached", "live"),
    )
    ref_model: str | None = setting(
        None,
        help="Path of the reference weights; null uses the initial weights of the policy.",
        is_path=True,
    )
    reference_cache_dir: str = setting(
        "outputs/reference_cache",
        help="Directory of cached reference log-probabilities; each file is keyed by weights, data and settings.",
        is_path=True,
    )
    sync_ref_model: bool = setting(
        False,
        help="Move the reference towards the policy during training (TR-DPO); requires reference=live and a reference "
        "in the actor's processes.",
    )
    ref_model_mixup_alpha: float = setting(
        0.6,
        help="Weight of the policy in each update of the reference with sync_ref_model; 1 copies the policy.",
        check=FRACTION,
    )
    ref_model_sync_steps: int = setting(
        512, help="Steps between updates of the reference with sync_ref_model.", unit="steps", check=at_least(1)
    )


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """Numbers of pairs or tokens per optimizer step and per forward pass."""

    global_batch_size: int = setting(
        derived="micro_batch_size x data-parallel size; required with micro_batch_tokens",
        help="Pairs per optimizer step over all devices; online: prompts per iteration.",
        unit="pairs",
        check=at_least(1),
        shared=True,
    )
    micro_batch_size: int | None = setting(
        derived="1, or null with micro_batch_tokens",
        help="Pairs per forward and backward pass of one replica.",
        unit="pairs",
        check=at_least(1),
    )
    micro_batch_tokens: int | None = setting(
        None,
        help="Maximum tokens per forward and backward pass of one replica, an alternative to micro_batch_size. A pass "
        "holds complete pairs, a shared prompt counts once, and a longer pair is a pass of its own.",
        unit="tokens",
        check=at_least(1),
    )
    pad_to_multiple_of: int = setting(
        1,
        help="Pad the tokens of each pass to a multiple of this, so that a device sees fewer distinct lengths.",
        unit="tokens",
        check=at_least(1),
    )
    share_prompt: bool = setting(True, help="Compute the prompt once for both responses of a pair.")
    probe_share_prompt: bool = setting(
        True,
        help="On NPU, test attention over a shared prompt at start-up and repeat prompts if the results differ; false "
        "skips the test.",
    )

    def filled(self, global_batch_size: int) -> BatchConfig:
        """Return the settings with derived values: the given batch size, and a micro-batch of 1 pair by default."""
        size = self.micro_batch_size or (None if self.micro_batch_tokens else 1)
        return replace(self, global_batch_size=global_batch_size, micro_batch_size=size)
