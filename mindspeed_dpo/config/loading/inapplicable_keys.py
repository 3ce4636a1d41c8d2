"""Removal of keys that the run ignores; each is reported once as having no effect, with the reason.

A file of one stage therefore also runs under another, and the resolved run holds only settings with an effect.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from mindspeed_dpo.config.issues import Issues
from mindspeed_dpo.config.legacy_keys import CONDITIONAL_VALUES
from mindspeed_dpo.config.loading.sections import Sections
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.config.settings.loss import REFERENCE_FREE_LOSSES, LossConfig
from mindspeed_dpo.config.settings.registry import FROZEN_KEYS, OFFLINE_KEYS, REWARD_SOURCES_USING, UNUSED_KEYS
from mindspeed_dpo.config.settings.trackers import unused_tracker_settings
from mindspeed_dpo.config.settings.training import ONLINE_STAGE, REWARD_MODEL_STAGE, LoopConfig
from mindspeed_dpo.config.sourced_values import Values, format_value, value_of

# Values that state what always holds online: a live reference.
_IMPLIED_ONLINE: dict[str, object] = {**dict.fromkeys(OFFLINE_KEYS, 0), "reference": "live"}
_NO_MODEL = "functions, a judge or a judge_model score, without a reward model"


def stage_of(sections: Sections) -> str:
    """Return the stage that the configuration selects, once shared settings are in `training`; dpo without one."""
    blocks = (sections.training, *sections.models.values())
    stage: str | None = next((block["stage"].value for block in blocks if "stage" in block), None)
    return stage or "dpo"


def drop_inapplicable_keys(sections: Sections, issues: Issues) -> None:
    """Remove values without effect from all sections and add a note for each."""
    stage = stage_of(sections)
    online = stage == ONLINE_STAGE
    if not online:
        _drop_reward(sections, stage, issues)
        _drop_reference(sections, stage, issues)
    unused = {**UNUSED_KEYS[stage], **({} if online else {"do_sample": f"only {ONLINE_STAGE} uses it"})}
    for block in _blocks(sections):
        _drop(block, unused, issues, implied=_IMPLIED_ONLINE if online else {})
    if online:
        _drop_other_reward_sources(sections, issues)
    for role, label in (("ref", "actor_rollout_ref.ref"), ("reward", "reward")):
        for key in sorted(set(sections.roles.get(role, {})) - FROZEN_KEYS - set(CONDITIONAL_VALUES)):
            name = "reference" if role == "ref" else role
            issues.add_note(f"{label}.{key} has no effect: the {name} is not trained and uses the actor's value")
            del sections.roles[role][key]
    used = {sections.model_of.get(role) for role in ("actor", "ref", "reward")}
    for name in sorted(set(sections.models) - used) if len(sections.models) > 1 else ():
        issues.add_note(f"model.{name} is used by no role")


def note_changed_values(values: Values, loop: LoopConfig, actor: RoleConfig, issues: Issues) -> None:
    """Add notes about values that have no effect or are read as another value."""
    if actor.parallel.sequence_parallel and actor.parallel.tensor_model_parallel_size == 1:
        issues.add_note("sequence_parallel is off: it requires tensor_model_parallel_size above 1")
    if not loop.is_online and (actor.data.prompt_type or actor.data.prompt_type_path):
        issues.add_note(
            "prompt_type is only compared with that of the data: preprocess_data.py has already applied the template"
        )
    if actor.rollout.n_samples_per_prompt == 1:
        issues.add_note("n_samples_per_prompt=1 is read as 2, as in MindSpeed-LLM: a pair needs two responses")
    for key, sentence in unused_tracker_settings(loop):
        issues.add_note(f"{values[key].origin.section}.{sentence}")


def reward_source(sections: Sections) -> str:
    """Return what the configuration selects to score responses: `model`, `functions`, `judge` or `judge_model`."""
    for key, source in (("reward_functions", "functions"), ("judge", "judge"), ("judge_model", "judge_model")):
        if value_of(sections.training, key):
            return source
    return "model"


def _drop_reward(sections: Sections, stage: str, issues: Issues) -> None:
    if sections.roles.pop("reward", None) is not None:
        issues.add_note(f"section reward has no effect: no response is sampled and scored in stage {stage}")
    sections.model_of.pop("reward", None)
    pools = (sections.pools.pop("reward", None), sections.same_pool.pop("reward", None))
    if any(pools):
        issues.add_note(f"resource_pool.reward has no effect: no response is sampled and scored in stage {stage}")


def _drop_reference(sections: Sections, stage: str, issues: Issues) -> None:
    """Remove the reference if no loss uses one; different weights for it are a contradiction and stay a problem."""
    if stage == REWARD_MODEL_STAGE:
        sections.model_of.pop("ref", None)
        of_pool = (sections.pools.pop("ref", None), sections.same_pool.pop("ref", None))
        if sections.roles.pop("ref", None) is not None or any(of_pool):
            issues.add_note("actor_rollout_ref.ref and its pool have no effect: a reward model has no reference")
        return
    blocks = (sections.roles.get("actor", {}), sections.training)
    losses = next((block["dpo_loss_type"].value for block in blocks if "dpo_loss_type" in block), None) or ()
    if not set(losses) & set(REFERENCE_FREE_LOSSES):
        return
    name = LossConfig(dpo_loss_type=losses).display_name
    section = sections.roles.pop("ref", None)
    parts = (section, sections.pools.pop("ref", None), sections.same_pool.pop("ref", None))
    loads = [block["load"].value for block in (*blocks, section or {}) if "load" in block]
    if section and "load" in section and len(set(loads)) > 1:
        issues.add_problem(
            f"actor_rollout_ref.ref.load={loads[-1]} names a reference, but dpo_loss_type={name} has none; remove it",
            "load",
        )
    elif any(part is not None for part in parts):
        issues.add_note(f"actor_rollout_ref.ref and its pool have no effect: dpo_loss_type={name} has no reference")


def _drop_other_reward_sources(sections: Sections, issues: Issues) -> None:
    """Remove settings of other reward sources. `load` stays: beside functions it is a contradiction."""
    source = reward_source(sections)
    unused = {
        key: f"rewards from {'a ' if source != 'functions' else ''}{source} do not use it"
        for key, sources in REWARD_SOURCES_USING.items()
        if source not in sources
    }
    _drop(sections.training, unused, issues)
    if source == "model":
        return
    section = sections.roles.get("reward", {})
    if sections.model_of.pop("reward", None) is not None:
        issues.add_note(f"reward.model has no effect: {_NO_MODEL}")
    for key in sorted((set(section) & (FROZEN_KEYS | set(CONDITIONAL_VALUES))) - {"load", "random_init"}):
        issues.add_note(f"reward.{key} has no effect: {_NO_MODEL}")
        del section[key]


def _blocks(sections: Sections) -> Iterator[Values]:
    yield from sections.models.values()
    yield sections.training
    yield from sections.roles.values()


def _drop(
    block: Values, reasons: Mapping[str, str], issues: Issues, implied: Mapping[str, object] = MappingProxyType({})
) -> None:
    """Remove the keys of `reasons` from a section, with a note unless the value is null or implied."""
    for key in [key for key in block if key in reasons]:
        item = block.pop(key)
        if item.value is not None and item.value != implied.get(key):
            issues.add_note(f"{item.origin.section}.{key}={format_value(item.value)} has no effect: {reasons[key]}")
