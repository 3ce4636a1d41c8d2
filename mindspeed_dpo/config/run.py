"""A resolved run: the settings of the driver and of each role, ready to be handed on, and written back as YAML."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf

from mindspeed_dpo.config.loading.sections import Origin
from mindspeed_dpo.config.settings.data import CheckpointConfig, DataConfig
from mindspeed_dpo.config.settings.field import declared
from mindspeed_dpo.config.settings.lora import AdapterConfig
from mindspeed_dpo.config.settings.loss import LossConfig
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.config.settings.online import PairingConfig, RewardConfig, RolloutConfig
from mindspeed_dpo.config.settings.optimization import BatchConfig, OptimizerConfig, ReferenceConfig
from mindspeed_dpo.config.settings.parallel import ParallelConfig, PrecisionConfig, RecomputeConfig
from mindspeed_dpo.config.settings.registry import FROZEN_KEYS, ONLINE_KEYS, REWARD_KEYS, ROLE_GROUPS
from mindspeed_dpo.config.settings.stage_keys import OFFLINE_KEYS, REWARD_KEYS_OF
from mindspeed_dpo.config.settings.training import LoopConfig


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
    adapters: AdapterConfig
    data: DataConfig
    batch: BatchConfig
    checkpoint: CheckpointConfig
    rollout: RolloutConfig
    pairing: PairingConfig
    reward: RewardConfig

    def as_dict(self) -> dict[str, Any]:
        """Plain values by group and key, fit for JSON; `from_dict` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RoleConfig:
        """The inverse of `as_dict`; values are trusted, as this project wrote them."""
        groups = {group: kind(**_frozen(values[group])) for group, kind in ROLE_GROUPS.items()}
        return cls(name=values["name"], **groups)

    def settings(self) -> dict[str, Any]:
        """Every setting of the role by its key, model included."""
        return {key: value for group in ROLE_GROUPS for key, value in vars(getattr(self, group)).items()}

    @property
    def replica_size(self) -> int:
        """Processes of one replica: tensor x context x pipeline."""
        parallel = self.parallel
        return (
            parallel.tensor_model_parallel_size * parallel.context_parallel_size * parallel.pipeline_model_parallel_size
        )

    @property
    def num_chunks(self) -> int:
        """Virtual stages of each pipeline device; 1 where there are none."""
        layers = self.parallel.num_layers_per_virtual_pipeline_stage
        if layers is None:
            return 1
        return max(1, self.model.num_layers // (self.parallel.pipeline_model_parallel_size * layers))

    @property
    def row_multiple(self) -> int:
        """What the rows of its micro-batches are padded to a multiple of: ranks that share them get equal parts.

        Those are the context-parallel ranks and, with sequence parallelism, the tensor-parallel ones.
        """
        parallel = self.parallel
        tensor = parallel.tensor_model_parallel_size if parallel.sequence_parallel else 1
        return math.lcm(parallel.context_parallel_size * tensor, self.batch.pad_to_multiple_of)

    @property
    def max_new_tokens(self) -> int:
        """Longest response online, in tokens."""
        return self.data.seq_length - self.rollout.max_prompt_length

    @property
    def reward_source(self) -> str:
        """What scores responses: `model`, `functions` or `judge`; for the last two the role's model is a stand-in."""
        return self.reward.reward_source


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run.

    Attributes:
        name: The configuration's name.
        loop: Settings of the driver.
        actor: The trained role.
        ref: The frozen reference; None where the stage has none.
        rollout: The policy as it generates; None offline.
        reward: The role that scores; None offline.
        pools: Processes per node of each pool: `actor_rollout`, and `rollout`, `ref` or `reward` where they have
            their own. Each has the layout of the role it is named after.
        sharing: Role to the pool of another than the actor, where it has none of its own.
        notes: What the reader should know: keys without effect, and why; sizes that were filled in.
        origins: `actor.lr` to where its value came from; a setting that is absent has its default.
    """

    name: str
    loop: LoopConfig
    actor: RoleConfig
    ref: RoleConfig | None = None
    rollout: RoleConfig | None = None
    reward: RoleConfig | None = None
    pools: dict[str, tuple[int, ...]]
    sharing: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = field(default=(), compare=False)
    origins: dict[str, Origin] = field(default_factory=dict, compare=False)

    @property
    def is_online(self) -> bool:
        """Whether the policy learns from its own answers."""
        return self.loop.is_online

    @property
    def roles(self) -> list[RoleConfig]:
        """The roles there are."""
        return [role for role in (self.actor, self.rollout, self.ref, self.reward) if role is not None]

    def pool_of(self, role: str) -> str:
        """The pool a role (`actor`, `rollout`, `ref`, `reward`) runs on: its own, another's, else the actor's."""
        return role if role in self.pools else self.sharing.get(role, "actor_rollout")

    def layout_role(self, pool: str) -> RoleConfig:
        """The role whose layout a pool has."""
        name = "actor" if pool == "actor_rollout" else pool
        return next(role for role in self.roles if role.name == name)

    @property
    def is_ref_initial_policy(self) -> bool:
        """Whether the reference is the policy as it is before the first update."""
        ref, actor = self.ref, self.actor
        return ref is not None and (
            (ref.checkpoint.load, ref.checkpoint.random_init) == (actor.checkpoint.load, actor.checkpoint.random_init)
            and ref.model == actor.model
            and ref.precision == actor.precision
        )

    @property
    def is_ref_within_actor(self) -> bool:
        """Whether the reference is the actor with its adapters off, in the actor's processes: no model of its own."""
        return self.actor.adapters.is_on and self.is_ref_initial_policy and self.pool_of("ref") == self.pool_of("actor")

    def num_processes(self, role: str) -> int:
        """Processes of a role over all nodes; one device each."""
        return sum(self.pools[self.pool_of(role)])

    def data_parallel_size(self, role: str) -> int:
        """Replicas of a role: processes / (tensor x context x pipeline)."""
        settings: RoleConfig = getattr(self, role)
        return self.num_processes(role) // settings.replica_size

    def as_yaml(self) -> str:
        """The resolved run as a YAML file that composes to an equal `RunConfig`."""
        return OmegaConf.to_yaml(OmegaConf.create(self.as_tree()))

    def as_tree(self) -> dict[str, Any]:
        """What `as_yaml` writes: every setting that has an effect, by section, as plain values."""
        idle = {*(OFFLINE_KEYS if self.is_online else ONLINE_KEYS), *REWARD_KEYS}
        if "ipo" not in self.actor.loss.dpo_loss_type:
            idle.add("ipo_normalize")
        if not self.actor.adapters.is_on:
            idle.update(declared(AdapterConfig))
        roles = {"actor_rollout": {"model": "actor", **_written(self.actor, without=idle)}}
        if self.ref is not None:
            roles["ref"] = {"model": "ref", **_frozen_part(self.ref)}
        tree = {
            "name": self.name,
            "model": self._written_models(),
            "training": {key: value for key, value in _known(vars(self.loop)).items() if key not in idle},
            "actor_rollout_ref": roles,
            "reward": _reward_section(self.reward),
            "resource_pool": {**self._written_pools(), **self.sharing},
        }
        return {key: value for key, value in tree.items() if value is not None}

    def _written_models(self) -> dict[str, Any]:
        """The models that are there: the rollout's is the actor's, and functions that score have none."""
        named = [self.actor, self.ref, self.reward if self.actor.reward_source == "model" else None]
        return {role.name: _known(role.model.as_dict()) for role in named if role is not None}

    def _written_pools(self) -> dict[str, list[int]]:
        """The pools as a file has them: the rollout's processes are the last of `actor_rollout`."""
        pools = {name: list(sizes) for name, sizes in self.pools.items()}
        pools["actor_rollout"] += pools.pop("rollout", [])
        return pools


def _reward_section(role: RoleConfig | None) -> dict[str, Any] | None:
    if role is None:
        return None
    idle = {key for key, ways in REWARD_KEYS_OF.items() if role.reward_source not in ways}
    own = {key: value for key, value in _known(vars(role.reward)).items() if key not in idle}
    return {"model": role.name, **_frozen_part(role), **own} if role.reward_source == "model" else own


def _frozen_part(role: RoleConfig) -> dict[str, Any]:
    return {key: value for key, value in _written(role, without=()).items() if key in FROZEN_KEYS}


def _written(role: RoleConfig, without: Container[str]) -> dict[str, Any]:
    settings = _known(role.settings())
    return {k: v for k, v in settings.items() if not hasattr(role.model, k) and k not in without}


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    """Null says no more than an absent key does; YAML has lists, not tuples."""
    given = {key: value for key, value in values.items() if value is not None}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}


def _frozen(values: Mapping[str, Any]) -> dict[str, Any]:
    """Lists back to the tuples they were before JSON."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
