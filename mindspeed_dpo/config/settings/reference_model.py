"""The reference model: cached or live, its updates from the policy, and its cache."""

from __future__ import annotations

from dataclasses import dataclass

from mindspeed_dpo.config.settings.setting import FRACTION, at_least, setting


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
        "with the actor's model, in the actor's processes or on its own with one pipeline stage.",
    )
    ref_model_mixup_alpha: float = setting(
        0.6,
        help="Weight of the policy in each update of the reference with sync_ref_model; 1 copies the policy.",
        check=FRACTION,
    )
    ref_model_sync_steps: int = setting(
        512, help="Steps between updates of the reference with sync_ref_model.", unit="steps", check=at_least(1)
    )
