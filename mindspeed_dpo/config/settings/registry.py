"""All groups of settings and every setting by its key. Keys are unique over all groups, so that sections are flat.

Also here: the keys that only some stages, one way of scoring, or only a trained role uses.
"""

from __future__ import annotations

from typing import Any

from mindspeed_dpo.config.settings.batch_size import BatchConfig
from mindspeed_dpo.config.settings.checkpoints import CheckpointConfig
from mindspeed_dpo.config.settings.data import DataConfig
from mindspeed_dpo.config.settings.generation import RolloutConfig
from mindspeed_dpo.config.settings.lora import AdapterConfig
from mindspeed_dpo.config.settings.loss import LossConfig
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.config.settings.optimizer_and_schedule import OptimizerConfig
from mindspeed_dpo.config.settings.pair_selection import PairingConfig
from mindspeed_dpo.config.settings.parallel_sizes_and_timeout import ParallelConfig
from mindspeed_dpo.config.settings.precision_and_recompute import PrecisionConfig, RecomputeConfig
from mindspeed_dpo.config.settings.reference_model import ReferenceConfig
from mindspeed_dpo.config.settings.reward_model import RewardModelConfig
from mindspeed_dpo.config.settings.reward_sources import RewardConfig
from mindspeed_dpo.config.settings.router_training import RouterConfig
from mindspeed_dpo.config.settings.setting import Setting, group_settings
from mindspeed_dpo.config.settings.training import ONLINE_STAGE, REWARD_MODEL_STAGE, LoopConfig

ROLE_GROUPS: dict[str, type] = {
    "model": ModelConfig,
    "parallel": ParallelConfig,
    "precision": PrecisionConfig,
    "recompute": RecomputeConfig,
    "optimizer": OptimizerConfig,
    "loss": LossConfig,
    "reward_model": RewardModelConfig,
    "router": RouterConfig,
    "reference": ReferenceConfig,
    "adapters": AdapterConfig,
    "data": DataConfig,
    "batch": BatchConfig,
    "checkpoint": CheckpointConfig,
    "rollout": RolloutConfig,
    "pairing": PairingConfig,
    "reward": RewardConfig,
}
"""Attribute of `RoleConfig` to the group that it holds."""
GROUPS: dict[str, type] = {"loop": LoopConfig, **ROLE_GROUPS}

SETTINGS: dict[str, Setting] = {key: item for group in GROUPS.values() for key, item in group_settings(group).items()}
_GROUP_BY_KEY = {key: name for name, group in GROUPS.items() for key in group_settings(group)}

REWARD_KEYS = tuple(group_settings(RewardConfig))
SHARED_KEYS = tuple(key for key, item in SETTINGS.items() if item.info.shared or key in REWARD_KEYS)
"""Keys with a single value for the run. Those of the reward belong to them, whichever section sets them."""

ONLINE_GROUPS = ("rollout", "pairing", "reward")
ONLINE_KEYS = tuple(key for key, group in _GROUP_BY_KEY.items() if group in ONLINE_GROUPS)
"""Keys that only stage ray_online_dpo uses."""

OFFLINE_KEYS: dict[str, str] = {
    "truncation": "prompt_truncation handles long prompts, and responses are limited in length when sampled",
    "reference": "responses are new in every iteration, so the reference is always live online",
    "reference_cache_dir": "the reference is always live online",
}
"""Keys that ray_online_dpo does not use, unlike dpo, and why."""

DATA_KEYS_OF_LOSS = ("margin_column", "margin_scale", "weight_column")
"""Keys of the loss that a reward model has as well."""
POLICY_KEYS: dict[str, str] = {
    **{
        key: "the loss of a reward model compares scores (Bradley-Terry)"
        for key in group_settings(LossConfig)
        if key not in DATA_KEYS_OF_LOSS
    },
    **dict.fromkeys(group_settings(ReferenceConfig), "a reward model has no reference"),
    "log_token_statistics": "a reward model scores responses, not tokens",
}
"""Keys that the training of a policy uses and that of a reward model does not, and why."""
_ONLINE_ONLY = dict.fromkeys(ONLINE_KEYS, f"only {ONLINE_STAGE} uses it")
_REWARD_MODEL_ONLY = dict.fromkeys(group_settings(RewardModelConfig), f"only stage {REWARD_MODEL_STAGE} uses it")
UNUSED_KEYS: dict[str, dict[str, str]] = {
    "dpo": {**_ONLINE_ONLY, **_REWARD_MODEL_ONLY},
    REWARD_MODEL_STAGE: {**_ONLINE_ONLY, **POLICY_KEYS},
    ONLINE_STAGE: {**OFFLINE_KEYS, **_REWARD_MODEL_ONLY},
}
"""Stage to the keys without effect in it, and why."""

REWARD_SOURCES_USING: dict[str, tuple[str, ...]] = {
    "reward_timeout_s": ("functions", "judge"),
    "dataset_additional_keys": ("functions", "judge", "judge_model"),
    "reward_tokenizer": ("model",),
    "reward_prompt_type": ("model",),
    "no_post_layer_norm": ("model",),
    **{key: ("judge_model",) for key in REWARD_KEYS if key.startswith("judge_") and key != "judge_model"},
}
"""Keys of the reward that only some reward sources use, and these sources."""

FROZEN_GROUPS = ("model", "parallel", "precision", "batch")
"""Groups that a role without training (reference, reward) has of its own; all others are the actor's."""
FROZEN_KEYS = {key for key, group in _GROUP_BY_KEY.items() if group in FROZEN_GROUPS} | {
    "load",
    "random_init",
    "load_checkpoint_loosely",
}
"""Keys that have an effect in the section of such a role."""


def default_section(key: str) -> str:
    """The section of a YAML file in which a setting is normally set."""
    group = _GROUP_BY_KEY[key]
    sections = {"loop": "training", "model": "model", "reward": "reward"}
    return sections.get(group, "training or actor_rollout_ref.actor_rollout")


def placeholder(item: Setting) -> Any:
    """A valid value for a missing required setting, with which the remaining checks can run."""
    return {int: 1, float: 1.0, str: ""}[item.type]
