"""All groups of settings, and every setting by its key. Keys are unique over all groups, so sections may stay flat."""

from __future__ import annotations

from typing import Any

from mindspeed_dpo.config.settings.data import CheckpointConfig, DataConfig
from mindspeed_dpo.config.settings.field import Setting, declared
from mindspeed_dpo.config.settings.lora import AdapterConfig
from mindspeed_dpo.config.settings.loss import LossConfig
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.config.settings.online import PairingConfig, RewardConfig, RolloutConfig
from mindspeed_dpo.config.settings.optimization import BatchConfig, OptimizerConfig, ReferenceConfig
from mindspeed_dpo.config.settings.parallel import ParallelConfig, PrecisionConfig, RecomputeConfig
from mindspeed_dpo.config.settings.training import LoopConfig

ROLE_GROUPS: dict[str, type] = {
    "model": ModelConfig,
    "parallel": ParallelConfig,
    "precision": PrecisionConfig,
    "recompute": RecomputeConfig,
    "optimizer": OptimizerConfig,
    "loss": LossConfig,
    "reference": ReferenceConfig,
    "adapters": AdapterConfig,
    "data": DataConfig,
    "batch": BatchConfig,
    "checkpoint": CheckpointConfig,
    "rollout": RolloutConfig,
    "pairing": PairingConfig,
    "reward": RewardConfig,
}
GROUPS: dict[str, type] = {"loop": LoopConfig, **ROLE_GROUPS}

SETTINGS: dict[str, Setting] = {key: item for group in GROUPS.values() for key, item in declared(group).items()}
_GROUP_OF = {key: name for name, group in GROUPS.items() for key in declared(group)}

REWARD_KEYS = tuple(declared(RewardConfig))
SHARED_KEYS = tuple(key for key, item in SETTINGS.items() if item.about.shared or key in REWARD_KEYS)
"""Keys with one value for the whole run. What scores is one of them, in whichever section it is told."""
ONLINE_GROUPS = ("rollout", "pairing", "reward")
ONLINE_KEYS = tuple(key for key, group in _GROUP_OF.items() if group in ONLINE_GROUPS)
"""Keys that only online DPO uses."""

FROZEN_GROUPS = ("model", "parallel", "precision", "batch")
"""Groups a role that is not trained has of its own; the others are the actor's."""
FROZEN_KEYS = {key for key, group in _GROUP_OF.items() if group in FROZEN_GROUPS} | {
    "load",
    "random_init",
    "load_checkpoint_loosely",
}
"""Keys that have an effect in the section of such a role."""


def home(key: str) -> str:
    """The section of a YAML file where a setting usually stands."""
    group = _GROUP_OF[key]
    usual = {"loop": "training", "model": "model", "reward": "reward"}
    return usual.get(group, "training or actor_rollout_ref.actor_rollout")


def stand_in(item: Setting) -> Any:
    """A harmless value for a required setting that is missing, so that the other checks can go on."""
    return {int: 1, float: 1.0, str: ""}[item.type]
