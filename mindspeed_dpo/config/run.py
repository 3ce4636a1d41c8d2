"""A resolved run: the settings of the driver and of each role, ready to be handed on, and written back as YAML."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf

from mindspeed_dpo.config.files import CheckpointConfig, DataConfig
from mindspeed_dpo.config.learning import BatchConfig, LossConfig, OptimizerConfig, ReferenceConfig
from mindspeed_dpo.config.loop import LoopConfig
from mindspeed_dpo.config.machine import ParallelConfig, PrecisionConfig, RecomputeConfig
from mindspeed_dpo.config.model import ModelConfig
from mindspeed_dpo.config.schema import FROZEN_KEYS, ROLE_GROUPS
from mindspeed_dpo.config.sections import Origin


@dataclass(frozen=True, kw_only=True)
class RoleConfig:
    """Everything one role was told. What an untrained role has no use for is the actor's."""

    name: str
    model: ModelConfig
    parallel: ParallelConfig
    precision: PrecisionConfig
    recompute: RecomputeConfig
    optimizer: OptimizerConfig
    loss: LossConfig
    reference: ReferenceConfig
    data: DataConfig
    batch: BatchConfig
    checkpoint: CheckpointConfig

    def as_dict(self) -> dict[str, Any]:
        """Plain values by group and key, fit for JSON; `from_dict` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RoleConfig:
        """The inverse of `as_dict`; values are trusted, as this project wrote them."""
        groups = {group: kind(**values[group]) for group, kind in ROLE_GROUPS.items()}
        return cls(name=values["name"], **groups)

    def settings(self) -> dict[str, Any]:
        """Every setting of the role by its key, model included."""
        return {key: value for group in ROLE_GROUPS for key, value in vars(getattr(self, group)).items()}

    @property
    def model_parallel_size(self) -> int:
        """Processes of one replica: tensor x pipeline."""
        return self.parallel.tensor_model_parallel_size * self.parallel.pipeline_model_parallel_size


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run.

    Attributes:
        name: The configuration's name.
        loop: Settings of the driver.
        actor: The trained role.
        ref: The frozen reference; None where the stage has none.
        reward: The role that scores; None where the stage has none.
        pools: Processes per node of each pool: `actor_rollout`, and `ref` or `reward` where they have their own.
        notes: What the reader should know: keys without effect, and why; sizes that were filled in.
        origins: `actor.lr` to where its value came from; a setting that is absent has its default.
    """

    name: str
    loop: LoopConfig
    actor: RoleConfig
    ref: RoleConfig | None = None
    reward: RoleConfig | None = None
    pools: dict[str, tuple[int, ...]]
    notes: tuple[str, ...] = field(default=(), compare=False)
    origins: dict[str, Origin] = field(default_factory=dict, compare=False)

    def pool_of(self, role: str) -> str:
        """The pool a role (`actor`, `ref`, `reward`) runs on: its own, else the actor's."""
        return role if role in self.pools else "actor_rollout"

    def num_processes(self, role: str) -> int:
        """Processes of a role over all nodes; one device each."""
        return sum(self.pools[self.pool_of(role)])

    def data_parallel_size(self, role: str) -> int:
        """Replicas of a role: processes / (tensor x pipeline)."""
        settings: RoleConfig = getattr(self, role)
        return self.num_processes(role) // settings.model_parallel_size

    def as_yaml(self) -> str:
        """The resolved run as a YAML file that composes to an equal `RunConfig`."""
        loop = {key: value for key, value in vars(self.loop).items() if value is not None}
        roles = {"actor_rollout": {"model": "actor", **_written(self.actor)}}
        models = {"actor": _known(self.actor.model.as_dict())}
        if self.ref is not None:
            roles["ref"] = {"model": "ref", **{k: v for k, v in _written(self.ref).items() if k in FROZEN_KEYS}}
            models["ref"] = _known(self.ref.model.as_dict())
        tree = {
            "name": self.name,
            "model": models,
            "training": loop,
            "actor_rollout_ref": roles,
            "resource_pool": {name: list(sizes) for name, sizes in self.pools.items()},
        }
        return OmegaConf.to_yaml(OmegaConf.create(tree))


def _written(role: RoleConfig) -> dict[str, Any]:
    return _known({key: value for key, value in role.settings().items() if not hasattr(role.model, key)})


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    """Null says no more than an absent key does."""
    return {key: value for key, value in values.items() if value is not None}
