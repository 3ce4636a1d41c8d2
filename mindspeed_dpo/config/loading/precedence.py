"""The settings of each role: its section over `training` over its model file, then defaults or the actor's values."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from mindspeed_dpo.config.issues import Issues
from mindspeed_dpo.config.loading.resource_pools import PoolAssignment
from mindspeed_dpo.config.loading.sections import Sections
from mindspeed_dpo.config.loading.unknown_and_legacy_keys import report_context_parallel_algo
from mindspeed_dpo.config.name_suggestions import did_you_mean, join_words
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.config.settings.parallel_sizes_and_timeout import EXPERT_LAYOUT_KEYS, ParallelConfig
from mindspeed_dpo.config.settings.registry import (
    FROZEN_GROUPS,
    FROZEN_KEYS,
    ROLE_GROUPS,
    SHARED_KEYS,
    placeholder,
)
from mindspeed_dpo.config.settings.setting import group_settings
from mindspeed_dpo.config.sourced_values import Origin, SourcedValue, Values, format_value, value_of

Group = TypeVar("Group")


def move_shared_settings(sections: Sections, issues: Issues) -> None:
    """Move settings with a single value for the run into `training`; a role may repeat the value but not differ."""
    for key in SHARED_KEYS:
        for role in sections.roles.values():
            item = role.pop(key, None)
            shared = sections.training.setdefault(key, item) if item else None
            if item and shared and shared.value != item.value:
                other = f"{shared.origin.section}.{key}={format_value(shared.value)}"
                issues.add_problem(
                    f"{item.origin.section}.{key}={format_value(item.value)} differs from {other}; the run has a "
                    "single value, set it in training",
                    key,
                )


def overlay_sections(sections: Sections, role: str, issues: Issues) -> Values:
    """Return the values of a role by key, from its model file, `training` and its own section."""
    model = sections.models.get(_model_name(sections, role, issues), {})
    return {**model, **sections.training, **sections.roles.get(role, {})}


def build_group(kind: type[Group], values: Values, issues: Issues, section: str) -> Group:
    """Build one group of settings. A missing required setting is a problem and gets a placeholder."""
    chosen: dict[str, Any] = {}
    for key, setting in group_settings(kind).items():
        value = value_of(values, key)
        if value is not None:
            chosen[key] = value
        elif setting.is_required:
            # Without a model file all of the model is missing, which is reported already.
            causes = ("model",) if section.startswith("model.") else ()
            issues.add_problem(f"{section}: {key} is missing: {setting.info.help}", key, *causes)
            chosen[key] = placeholder(setting)
    return kind(**chosen)


def _model_name(sections: Sections, role: str, issues: Issues) -> str:
    """The model of a role; the role need not name it if the configuration has only one."""
    names = list(sections.models)
    name = sections.model_of.get(role) or (names[0] if len(names) == 1 else "")
    if not names:
        issues.add_problem("there is no model: add `defaults: - model: [name]` with a file of configs/model", "model")
    elif not name:
        issues.add_problem(f"{role}: model is missing; choose {join_words(names)}", "model")
    elif name not in names:
        hint = did_you_mean(name, names)
        issues.add_problem(f"{role}: model={name} is not one of the models in `defaults`{hint}", "model")
    return name


class RoleBuilder:
    """Builds rollout, reference and reward beside the actor. A role that shares a pool has the layout of that pool."""

    def __init__(self, sections: Sections, actor: RoleConfig, assignment: PoolAssignment, issues: Issues) -> None:
        """Start with the actor, whose derived settings must be filled in."""
        self._sections, self._actor, self._assignment, self._issues = sections, actor, assignment, issues
        self.roles = {"actor": actor}
        self.origins: dict[str, Origin] = {}

    def add_rollout(self) -> None:
        """Add the policy as it generates: the actor with the layout of generation."""
        sizes = self._actor.rollout
        tp, ep = sizes.inference_tensor_model_parallel_size, sizes.inference_expert_model_parallel_size
        self.roles["rollout"] = dataclasses.replace(
            self._actor, name="rollout", parallel=_tensor_parallel_layout(self._actor.parallel, tp, ep)
        )

    def add_frozen(self, online: bool) -> None:
        """Add the reference and, online, the reward; if one shares the other's pool, it is added second."""
        for role in ("reward", "ref") if self._assignment.pool_of("ref") == "reward" else ("ref", "reward"):
            if role == "ref":
                # Online it exists even if no loss uses it: metrics report the KL divergence from it.
                if online or not (self._actor.loss.is_reference_free or self._actor.has_score_head):
                    self._add_reference()
            elif online:
                self._add_reward()

    def _add_reference(self) -> None:
        """Add the reference with the actor's settings, or with those of its own section if there is one."""
        actor, ref_model = self._actor, self._actor.reference.ref_model
        if "ref" not in self._sections.roles:
            random_init = actor.checkpoint.random_init and not ref_model
            checkpoint = dataclasses.replace(
                actor.checkpoint, load=ref_model or actor.checkpoint.load, random_init=random_init
            )
            self.roles["ref"] = dataclasses.replace(
                actor, name="ref", checkpoint=checkpoint, parallel=self._pool_layout("ref")
            )
            return
        values = overlay_sections(self._sections, "ref", self._issues)
        # `training.load` applies to all roles; only the section's own value takes precedence over ref_model.
        load = value_of(self._sections.roles["ref"], "load") or ref_model
        if not load and not value_of(values, "random_init"):
            load = actor.checkpoint.load
        self._add("ref", values, "actor_rollout_ref.ref", load, random_init=not load)

    def _add_reward(self) -> None:
        """Add the reward: a model of its own, or for other sources a role with the actor's settings."""
        # The weights in `training` are the policy's, which cannot score.
        section = self._sections.roles.get("reward", {})
        load, random_init = value_of(section, "load"), bool(value_of(section, "random_init"))
        if self._actor.reward.reward_source == "model":
            values = overlay_sections(self._sections, "reward", self._issues)
            self._add("reward", values, "reward", load, random_init=random_init)
            self.roles["reward"] = dataclasses.replace(self.roles["reward"], has_score_head=True)
            return
        checkpoint = dataclasses.replace(self._actor.checkpoint, load=load, random_init=random_init)
        parallel = self._pool_layout("reward")
        if "reward" in self._assignment.pools:
            # A function runs in each process; an engine of the judge model may use several.
            parallel = _tensor_parallel_layout(parallel, tp=self._actor.reward.judge_tensor_model_parallel_size)
        self.roles["reward"] = dataclasses.replace(self._actor, name="reward", checkpoint=checkpoint, parallel=parallel)
        self._add_origins("reward", section)

    def _add(self, role: str, values: Values, label: str, load: str | None, random_init: bool) -> None:
        if role not in self._assignment.pools:
            values = {**_layout_values(self._pool_layout(role), label), **values}
        built: dict[str, Any] = {
            group: build_group(ROLE_GROUPS[group], values, self._issues, label) for group in FROZEN_GROUPS
        }
        built["batch"] = built["batch"].filled(self._actor.batch.global_batch_size)
        unused = self._inherited_without_use(role, built["model"], built["parallel"])
        built["parallel"] = dataclasses.replace(normalized_layout(built["parallel"]), **unused)
        values = {key: item for key, item in values.items() if key not in unused}
        checkpoint = dataclasses.replace(
            self._actor.checkpoint,
            load=load,
            random_init=random_init,
            load_checkpoint_loosely=bool(value_of(values, "load_checkpoint_loosely")),
        )
        self.roles[role] = dataclasses.replace(self._actor, name=role, checkpoint=checkpoint, **built)
        self._add_origins(role, values)
        report_context_parallel_algo(values, self.roles[role], self._issues)

    def _inherited_without_use(self, role: str, model: ModelConfig, parallel: ParallelConfig) -> dict[str, Any]:
        """Defaults of layout settings that the role has from `training` or its pool and cannot use.

        These are virtual stages of a single pipeline stage, and experts shared by devices of which a dense model has
        none. Such settings in the role's own section remain, and are reported.
        """
        keys = [] if parallel.pipeline_model_parallel_size > 1 else ["num_layers_per_virtual_pipeline_stage"]
        keys += [] if model.has_experts else EXPERT_LAYOUT_KEYS
        own = self._sections.roles.get(role, {})
        return {key: getattr(ParallelConfig(), key) for key in keys if not value_of(own, key)}

    def _add_origins(self, role: str, values: Values) -> None:
        self.origins.update({f"{role}.{key}": item.origin for key, item in values.items() if key in FROZEN_KEYS})

    def _pool_layout(self, role: str) -> ParallelConfig:
        """The layout of the pool that a role shares; the actor's if the role has a pool of its own."""
        pool = self._assignment.pool_of(role)
        return self.roles[{"actor_rollout": "actor", role: "actor"}.get(pool, pool)].parallel


def normalized_layout(parallel: ParallelConfig) -> ParallelConfig:
    """Disable sequence parallelism if the tensor-parallel size is 1."""
    sequence_parallel = parallel.sequence_parallel and parallel.tensor_model_parallel_size > 1
    return dataclasses.replace(parallel, sequence_parallel=sequence_parallel)


def _tensor_parallel_layout(parallel: ParallelConfig, tp: int, ep: int = 1) -> ParallelConfig:
    """Keep tensor and expert parallelism only."""
    return dataclasses.replace(
        parallel,
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=1,
        num_layers_per_virtual_pipeline_stage=None,
        context_parallel_size=1,
        expert_model_parallel_size=ep,
        moe_tp_extend_ep=False,
        sequence_parallel=False,
    )


def _layout_values(parallel: ParallelConfig, label: str) -> Values:
    """The layout of a shared pool as default values of a role on it."""
    origin = Origin(label, "shared devices")
    keys = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size", *EXPERT_LAYOUT_KEYS)
    return {key: SourcedValue(getattr(parallel, key), origin) for key in keys}
