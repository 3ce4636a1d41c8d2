"""How weights follow from a loss: reference, batch sizes, optimizer and its schedule."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mindspeed_dpo.config.settings.field import POSITIVE, SHARE, at_least, setting, within


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
    optimizer_offload: bool = setting(
        False,
        help="Keep Adam's moments, and float32 weights beside bfloat16 ones, on the host between updates; they come to "
        "the device for each, when activations are gone.",
    )


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
        derived="micro_batch_size x data-parallel size; must be given beside micro_batch_tokens",
        help="Pairs of one optimizer step over all devices; online: prompts of one iteration.",
        unit="pairs",
        check=at_least(1),
        shared=True,
    )
    micro_batch_size: int | None = setting(
        derived="1, or null beside micro_batch_tokens",
        help="Pairs of one forward and backward pass on one replica.",
        unit="pairs",
        check=at_least(1),
    )
    micro_batch_tokens: int | None = setting(
        None,
        help="Instead of micro_batch_size: tokens of one pass on one replica, a shared prompt counted once. Whole "
        "pairs fill it; one that is longer is a pass of its own.",
        unit="tokens",
        check=at_least(1),
    )
    pad_to_multiple_of: int = setting(
        1,
        help="The tokens of a pass are padded to a multiple of this, so that a device meets fewer different lengths.",
        unit="tokens",
        check=at_least(1),
    )
    share_prompt: bool = setting(True, help="Compute a prompt once for both of its responses.")
    probe_share_prompt: bool = setting(
        True,
        help="On NPU, compare attention over a shared prompt with its definition at start, and repeat prompts where it "
        "differs; false relies on it.",
    )

    def filled(self, global_batch_size: int) -> BatchConfig:
        """With the derived values: pairs of a step as given, and one pair a pass where no size is given."""
        size = self.micro_batch_size or (None if self.micro_batch_tokens else 1)
        return replace(self, global_batch_size=global_batch_size, micro_batch_size=size)
