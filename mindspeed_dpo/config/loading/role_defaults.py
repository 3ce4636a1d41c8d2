"""The roles beside the actor, built from what the file says about them and, for all the rest, from the actor."""

from __future__ import annotations

import dataclasses
from typing import Any

from mindspeed_dpo.config.issues import Issues
from mindspeed_dpo.config.loading.overlay import build, layered, value_of
from mindspeed_dpo.config.loading.placement import PoolAssignment
from mindspeed_dpo.config.loading.sections import Given, Origin, Sections, Values
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.config.settings.parallel import ParallelConfig
from mindspeed_dpo.config.settings.registry import FROZEN_GROUPS, FROZEN_KEYS, ROLE_GROUPS

Origins = dict[str, Origin]


class RoleBuilder:
    """Builds the roles of one file around its actor. A role that shares a pool takes the layout of who leads it."""

    def __init__(self, sections: Sections, actor: RoleConfig, seats: PoolAssignment, findings: Issues) -> None:
        """Start with the actor; its derived settings are filled in."""
        self._sections, self._actor, self._seats, self._findings = sections, actor, seats, findings
        self.roles = {"actor": actor}
        self.origins: Origins = {}

    def add_rollout(self) -> None:
        """Add the policy as it generates: the actor over its own number of devices."""
        tp = self._actor.rollout.inference_tensor_model_parallel_size
        self.roles["rollout"] = dataclasses.replace(
            self._actor, name="rollout", parallel=_layout(self._actor.parallel, tp, 1)
        )

    def add_frozen(self, online: bool) -> None:
        """Add reference and, online, reward; one that sits in the other's pool comes second."""
        for role in ("reward", "ref") if self._seats.pool_of("ref") == "reward" else ("ref", "reward"):
            if role == "ref":
                # Online it stays without a loss that reads it: it tells how far the policy has gone.
                if online or not self._actor.loss.is_reference_free:
                    self._add_reference()
            elif online:
                self._add_reward()

    def _add_reference(self) -> None:
        """The actor's settings, or those of its own section where the file has one."""
        actor, named = self._actor, self._actor.reference.ref_model
        if "ref" not in self._sections.roles:
            random_init = actor.checkpoint.random_init and not named
            checkpoint = dataclasses.replace(
                actor.checkpoint, load=named or actor.checkpoint.load, random_init=random_init
            )
            self.roles["ref"] = dataclasses.replace(
                actor, name="ref", checkpoint=checkpoint, parallel=self._layout_where("ref")
            )
            return
        values = layered(self._sections, "ref", self._findings)
        # `training.load` is every role's; only the section's own may outrank ref_model.
        load = value_of(self._sections.roles["ref"], "load") or named
        if not load and not value_of(values, "random_init"):
            load = actor.checkpoint.load
        self._add("ref", values, "actor_rollout_ref.ref", load, random_init=not load)

    def _add_reward(self) -> None:
        """What scores: a model of its own, or a stand-in with the actor's, where functions or a judge do."""
        # Not those of `training`, which are the policy's: a policy cannot score.
        section = self._sections.roles.get("reward", {})
        load, random_init = value_of(section, "load"), bool(value_of(section, "random_init"))
        if self._actor.reward.reward_source == "model":
            values = layered(self._sections, "reward", self._findings)
            self._add("reward", values, "reward", load, random_init=random_init)
            return
        checkpoint = dataclasses.replace(self._actor.checkpoint, load=load, random_init=random_init)
        parallel = self._layout_where("reward")
        if "reward" in self._seats.pools:
            parallel = _layout(parallel, 1, 1)
        self.roles["reward"] = dataclasses.replace(self._actor, name="reward", checkpoint=checkpoint, parallel=parallel)
        self._remember("reward", section)

    def _add(self, role: str, values: Values, label: str, load: str | None, random_init: bool) -> None:
        if role not in self._seats.pools:
            values = {**_unsaid(self._layout_where(role), label), **values}
        built: dict[str, Any] = {
            group: build(ROLE_GROUPS[group], values, self._findings, label) for group in FROZEN_GROUPS
        }
        built["batch"] = built["batch"].filled(self._actor.batch.global_batch_size)
        built["parallel"] = self._fitting(role, usable(built["parallel"]))
        checkpoint = dataclasses.replace(
            self._actor.checkpoint,
            load=load,
            random_init=random_init,
            load_checkpoint_loosely=bool(value_of(values, "load_checkpoint_loosely")),
        )
        self.roles[role] = dataclasses.replace(self._actor, name=role, checkpoint=checkpoint, **built)
        self._remember(role, values)

    def _fitting(self, role: str, parallel: ParallelConfig) -> ParallelConfig:
        """Without the virtual stages of others where the role has one stage and asked for none itself."""
        asked = value_of(self._sections.roles.get(role, {}), "num_layers_per_virtual_pipeline_stage")
        if asked or parallel.pipeline_model_parallel_size > 1:
            return parallel
        return dataclasses.replace(parallel, num_layers_per_virtual_pipeline_stage=None)

    def _remember(self, role: str, values: Values) -> None:
        self.origins.update({f"{role}.{key}": given.origin for key, given in values.items() if key in FROZEN_KEYS})

    def _layout_where(self, role: str) -> ParallelConfig:
        """The layout of who leads the pool where a role sits; the actor's on a pool of its own."""
        leader = {"actor_rollout": "actor", role: "actor"}.get(self._seats.pool_of(role), self._seats.pool_of(role))
        return self.roles[leader].parallel


def usable(parallel: ParallelConfig) -> ParallelConfig:
    """Switch off what needs more devices, and take the older names of "the device's own transport" as that."""
    backend = parallel.distributed_backend
    return dataclasses.replace(
        parallel,
        sequence_parallel=parallel.sequence_parallel and parallel.tensor_model_parallel_size > 1,
        distributed_backend="auto" if backend in ("nccl", "hccl") else backend,
    )


def _layout(parallel: ParallelConfig, tp: int, pp: int) -> ParallelConfig:
    return dataclasses.replace(
        parallel,
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        num_layers_per_virtual_pipeline_stage=None,
        context_parallel_size=1,
        sequence_parallel=False,
    )


def _unsaid(parallel: ParallelConfig, label: str) -> Values:
    """On shared devices an unsaid layout can only be that of the role that leads them."""
    origin = Origin(label, "shared devices")
    keys = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size")
    return {key: Given(getattr(parallel, key), origin) for key in keys}
