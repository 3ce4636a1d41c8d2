"""A resolved run: the settings of the training loop and of each role, and how they are written back as YAML."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf

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
from mindspeed_dpo.config.settings.registry import (
    FROZEN_KEYS,
    REWARD_KEYS,
    REWARD_SOURCES_USING,
    ROLE_GROUPS,
    UNUSED_KEYS,
)
from mindspeed_dpo.config.settings.reward_model import RewardModelConfig
from mindspeed_dpo.config.settings.reward_sources import RewardConfig
from mindspeed_dpo.config.settings.router_training import RouterConfig
from mindspeed_dpo.config.settings.setting import group_settings
from mindspeed_dpo.config.settings.training import LoopConfig
from mindspeed_dpo.config.sourced_values import Origin


@dataclass(frozen=True, kw_only=True)
class RoleConfig:
    """All settings of one role. Groups that a role without training does not use are those of the actor.

    For example `run.actor.optimizer.lr` or `run.ref.parallel.tensor_model_parallel_size`.

    Attributes:
        has_score_head: Whether its model is a reward model, with a scalar score head in place of the output layer.
    """

    name: str
    has_score_head: bool = False
    model: ModelConfig
    parallel: ParallelConfig
    precision: PrecisionConfig
    recompute: RecomputeConfig
    optimizer: OptimizerConfig
    loss: LossConfig
    reward_model: RewardModelConfig
    router: RouterConfig
    reference: ReferenceConfig
    adapters: AdapterConfig
    data: DataConfig
    batch: BatchConfig
    checkpoint: CheckpointConfig
    rollout: RolloutConfig
    pairing: PairingConfig
    reward: RewardConfig

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by group and key, fit for JSON; `from_dict` is the inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RoleConfig:
        """Build a role from the result of `as_dict`; values are not checked."""
        groups = {group: kind(**_lists_to_tuples(values[group])) for group, kind in ROLE_GROUPS.items()}
        return cls(name=values["name"], has_score_head=values["has_score_head"], **groups)

    def settings(self) -> dict[str, Any]:
        """Return every setting of the role by its key, the model included."""
        return {key: value for group in ROLE_GROUPS for key, value in vars(getattr(self, group)).items()}

    @property
    def is_trained(self) -> bool:
        """Whether this is the role that is trained; the others are frozen, or copies of it."""
        return self.name == "actor"

    @property
    def replica_size(self) -> int:
        """Number of processes of one replica: tensor x context x pipeline."""
        parallel = self.parallel
        return (
            parallel.tensor_model_parallel_size * parallel.context_parallel_size * parallel.pipeline_model_parallel_size
        )

    @property
    def num_chunks(self) -> int:
        """Number of model chunks (virtual stages) per pipeline device; 1 without virtual stages."""
        layers = self.parallel.num_layers_per_virtual_pipeline_stage
        if layers is None:
            return 1
        return max(1, self.model.num_layers // (self.parallel.pipeline_model_parallel_size * layers))

    @property
    def row_multiple(self) -> int:
        """Number of rows whose multiple a micro-batch is padded to, so that the ranks that share it get equal parts.

        These are the context-parallel ranks and, with sequence parallelism, the tensor-parallel ranks.
        """
        parallel = self.parallel
        tensor = parallel.tensor_model_parallel_size if parallel.sequence_parallel else 1
        return math.lcm(parallel.context_parallel_size * tensor, self.batch.pad_to_multiple_of)

    @property
    def max_new_tokens(self) -> int:
        """Maximum length of a sampled response, in tokens."""
        return self.data.seq_length - self.rollout.max_prompt_length

    @property
    def reward_source(self) -> str:
        """The source of scores: `model`, or another, which does not use the model of the role."""
        return self.reward.reward_source


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run: `load_run("offline_dpo_trainer_tiny")` has `pools={"actor_rollout": (2,)}` and no rollout or reward.

    Attributes:
        name: Name of the configuration.
        loop: Settings of the training loop.
        actor: The trained role.
        ref: The frozen reference; None if no loss uses one.
        rollout: The policy as it generates; None offline.
        reward: The role that scores; None offline.
        pools: Number of processes per node of each pool: `actor_rollout`, and `rollout`, `ref` or `reward` if they have
            a pool of their own. Each pool has the layout of the role that it is named after.
        sharing: Role without a pool of its own to the pool that it shares; absent for roles on `actor_rollout`.
        notes: Remarks for the user: keys without effect, and why; sizes that were filled in.
        origins: Path such as `actor.lr` to the origin of its value; settings with their default are absent.
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
        """Whether the policy trains on its own responses."""
        return self.loop.is_online

    @property
    def trains_reward_model(self) -> bool:
        """Whether a reward model is trained instead of a policy."""
        return self.loop.trains_reward_model

    @property
    def roles(self) -> list[RoleConfig]:
        """The roles of the run."""
        return [role for role in (self.actor, self.rollout, self.ref, self.reward) if role is not None]

    def pool_of(self, role: str) -> str:
        """Return the pool that a role (`actor`, `rollout`, `ref`, `reward`) runs on: its own or a shared one."""
        return role if role in self.pools else self.sharing.get(role, "actor_rollout")

    def layout_role(self, pool: str) -> RoleConfig:
        """Return the role whose layout a pool has."""
        name = "actor" if pool == "actor_rollout" else pool
        return next(role for role in self.roles if role.name == name)

    @property
    def is_ref_initial_policy(self) -> bool:
        """Whether the reference equals the policy before its first update."""
        ref, actor = self.ref, self.actor
        return ref is not None and (
            (ref.checkpoint.load, ref.checkpoint.random_init) == (actor.checkpoint.load, actor.checkpoint.random_init)
            and ref.model == actor.model
            and ref.precision == actor.precision
        )

    @property
    def starts_as_reference(self) -> bool:
        """Whether the policy generates as the reference before its first update: it has its weights, and no adapters.

        New adapters change nothing; those of `lora_load` do.
        """
        return self.is_ref_initial_policy and self.actor.adapters.lora_load is None

    @property
    def is_ref_within_actor(self) -> bool:
        """Whether the reference is the actor's model with adapters disabled, without weights of its own."""
        return self.actor.adapters.is_on and self.is_ref_initial_policy and self.pool_of("ref") == self.pool_of("actor")

    def num_processes(self, role: str) -> int:
        """Return the number of processes of a role over all nodes; each has one device."""
        return sum(self.pools[self.pool_of(role)])

    def data_parallel_size(self, role: str) -> int:
        """Return the number of replicas of a role: processes / (tensor x context x pipeline)."""
        settings: RoleConfig = getattr(self, role)
        return self.num_processes(role) // settings.replica_size

    def as_yaml(self) -> str:
        """Return the resolved run as a YAML file that composes to an equal `RunConfig`."""
        return OmegaConf.to_yaml(OmegaConf.create(self.as_tree()))

    def as_tree(self) -> dict[str, Any]:
        """Return every setting that has an effect by section, as plain values; `as_yaml` writes them."""
        unused = {*UNUSED_KEYS[self.loop.stage], *REWARD_KEYS}
        if "ipo" not in self.actor.loss.dpo_loss_type:
            unused.add("ipo_normalize")
        if not self.actor.adapters.is_on:
            unused.update(group_settings(AdapterConfig))
        if not self.actor.model.has_experts:
            unused.update([*group_settings(RouterConfig), "inference_expert_model_parallel_size"])
        roles = {"actor_rollout": {"model": "actor", **_role_section(self.actor, unused)}}
        if self.ref is not None:
            roles["ref"] = {"model": "ref", **_frozen_role_section(self.ref)}
        tree = {
            "name": self.name,
            "model": self._model_section(),
            "training": {key: value for key, value in _plain_values(vars(self.loop)).items() if key not in unused},
            "actor_rollout_ref": roles,
            "reward": _reward_section(self.reward),
            "resource_pool": {**self._pool_sizes(), **self.sharing},
        }
        return {key: value for key, value in tree.items() if value is not None}

    def _model_section(self) -> dict[str, Any]:
        """The model of each role that has one of its own; the rollout's is the actor's."""
        roles = [self.actor, self.ref, self.reward if self.actor.reward_source == "model" else None]
        return {role.name: _plain_values(role.model.as_dict()) for role in roles if role is not None}

    def _pool_sizes(self) -> dict[str, list[int]]:
        """The pools as a YAML file states them: the rollout's processes are the last ones of `actor_rollout`."""
        pools = {name: list(sizes) for name, sizes in self.pools.items()}
        pools["actor_rollout"] += pools.pop("rollout", [])
        return pools


def _reward_section(role: RoleConfig | None) -> dict[str, Any] | None:
    if role is None:
        return None
    unused = {key for key, sources in REWARD_SOURCES_USING.items() if role.reward_source not in sources}
    own = {key: value for key, value in _plain_values(vars(role.reward)).items() if key not in unused}
    return {"model": role.name, **_frozen_role_section(role), **own} if role.reward_source == "model" else own


def _frozen_role_section(role: RoleConfig) -> dict[str, Any]:
    return {key: value for key, value in _role_section(role, unused=()).items() if key in FROZEN_KEYS}


def _role_section(role: RoleConfig, unused: Container[str]) -> dict[str, Any]:
    settings = _plain_values(role.settings())
    return {k: v for k, v in settings.items() if not hasattr(role.model, k) and k not in unused}


def _plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Drop nulls, which mean the same as an absent key, and turn tuples into lists for YAML."""
    present = {key: value for key, value in values.items() if value is not None}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in present.items()}


def _lists_to_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
