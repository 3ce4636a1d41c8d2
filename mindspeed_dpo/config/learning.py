"""How weights follow from a loss: reference, batch sizes, optimizer and its schedule."""

from __future__ import annotations

from dataclasses import dataclass

from mindspeed_dpo.config.fields import POSITIVE, SHARE, at_least, setting, within


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam with decoupled weight decay, and its learning-rate schedule."""

    lr: float = setting(help="Peak learning rate.", check=at_least(0))
    min_lr: float = setting(0.0, help="Learning rate the decay ends at.", check=at_least(0))
    lr_decay_style: str = setting(
        "linear",
        help="Shape of the decay after warm-up.",
        choices=("constant", "linear", "cosine"),
        not_yet={
            "inverse-square-root": "this schedule is not implemented yet; choose constant, linear or cosine",
            "WSD": "this schedule is not implemented yet; choose constant, linear or cosine",
        },
    )
    lr_warmup_fraction: float | None = setting(
        None, help="Warm-up as a part of lr_decay_iters; instead of lr_warmup_iters.", check=within(0, 1)
    )
    lr_warmup_iters: int = setting(0, help="Length of the warm-up.", unit="steps", check=at_least(0))
    lr_decay_iters: int = setting(
        derived="train_iters", help="Where the decay ends, warm-up included.", unit="steps", check=at_least(1)
    )
    weight_decay: float = setting(0.01, help="Decoupled decay of weight matrices.", check=at_least(0))
    clip_grad: float = setting(1.0, help="Largest global L2 norm of the gradient; 0 does not clip.", check=at_least(0))
    adam_beta1: float = setting(0.9, help="Decay of Adam's first moment.", check=within(0, 1))
    adam_beta2: float = setting(0.999, help="Decay of Adam's second moment.", check=within(0, 1))
    adam_eps: float = setting(1e-8, help="Added to the root of Adam's second moment.", check=POSITIVE)


@dataclass(frozen=True, kw_only=True)
class ReferenceConfig:
    """The frozen model that the policy is compared with."""

    reference: str = setting(
        "cached",
        help="cached: computed once before training and kept on disk; live: computed at every step, as always online.",
        choices=("cached", "live"),
    )
    ref_model: str | None = setting(None, help="Weights of the reference; null means those the policy starts from.")
    reference_cache_dir: str = setting(
        "outputs/reference_cache",
        help="Where cached reference log-probabilities lie; each file is named by weights, data and settings.",
    )
    sync_ref_model: bool = setting(
        False, help="Let the reference follow the policy (TR-DPO); it must be live and share the actor's processes."
    )
    ref_model_mixup_alpha: float = setting(
        0.6, help="Share of the policy in the new reference when it follows; 1 copies the policy.", check=SHARE
    )
    ref_model_sync_steps: int = setting(
        512, help="Steps after which the reference follows again.", unit="steps", check=at_least(1)
    )


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How many pairs travel together."""

    global_batch_size: int = setting(
        derived="micro_batch_size x data-parallel size",
        help="Pairs of one optimizer step over all devices; online: prompts of one iteration.",
        unit="pairs",
        check=at_least(1),
        shared=True,
    )
    micro_batch_size: int = setting(
        1, help="Pairs of one forward and backward pass on one replica.", unit="pairs", check=at_least(1)
    )
    share_prompt: bool = setting(True, help="Compute a prompt once for both of its responses.")
    probe_share_prompt: bool = setting(
        True,
        help="On NPU, compare attention over a shared prompt with its definition at start, and repeat prompts where it "
        "differs; false relies on it.",
    )
