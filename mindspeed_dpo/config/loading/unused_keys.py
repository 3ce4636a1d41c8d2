"""What a file says that nothing in its run reads: each is told once, with the reason, and taken out.

So a file of one stage runs under the other, and the resolved run holds only what has an effect.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mindspeed_dpo.config.issues import Issues
from mindspeed_dpo.config.legacy.megatron_keys import LegacyKey, no_effect
from mindspeed_dpo.config.loading.parse import format_value
from mindspeed_dpo.config.loading.sections import Given, Sections, Values
from mindspeed_dpo.config.settings.loss import REFERENCE_FREE_LOSSES, LossConfig
from mindspeed_dpo.config.settings.registry import FROZEN_KEYS, ONLINE_KEYS
from mindspeed_dpo.config.settings.stage_keys import OFFLINE_KEYS, REWARD_KEYS_OF
from mindspeed_dpo.config.settings.training import ONLINE_STAGE

_ONLINE_ONLY = dict.fromkeys(ONLINE_KEYS, no_effect(f"only {ONLINE_STAGE} uses it"))
_NOT_SCORED = "stage dpo scores nothing"
_NOT_TRAINED = "the {} is not trained and reads the same data"
_NO_MODEL = "no model scores"


def is_online(sections: Sections) -> bool:
    """Whether the stage of a file, once settled in `training`, is online DPO."""
    given = next((block["stage"] for block in (sections.training, *sections.models.values()) if "stage" in block), None)
    return given is not None and given.value == ONLINE_STAGE


def drop_idle(sections: Sections, findings: Issues) -> None:
    """Take out and report what has no effect in the file's stage."""
    online = is_online(sections)
    if not online:
        _drop_reward(sections, findings)
        _drop_reference(sections, findings)
    for block in _blocks(sections):
        _drop(block, OFFLINE_KEYS if online else _ONLINE_ONLY, findings)
    if online:
        _drop_of_other_scorers(sections, findings)
    for role, label in (("ref", "actor_rollout_ref.ref"), ("reward", "reward")):
        for key in sorted(set(sections.roles.get(role, {})) - FROZEN_KEYS):
            who = "reference" if role == "ref" else role
            findings.note(f"{label}.{key} has no effect: {_NOT_TRAINED.format(who)}")
            del sections.roles[role][key]
    used = {sections.model_of.get(role) for role in ("actor", "ref", "reward")}
    for name in sorted(set(sections.models) - used) if len(sections.models) > 1 else ():
        findings.note(f"model.{name} is used by no role")


def reward_source(sections: Sections) -> str:
    """What a file lets score its answers: `model`, `functions` or `judge`."""
    settings = sections.training
    for key, way in (("reward_functions", "functions"), ("judge", "judge")):
        if key in settings and settings[key].value:
            return way
    return "model"


def _drop_reward(sections: Sections, findings: Issues) -> None:
    if sections.roles.pop("reward", None) is not None:
        findings.note(f"section reward has no effect: {_NOT_SCORED}")
    sections.model_of.pop("reward", None)
    given = (sections.pools.pop("reward", None), sections.same_pool.pop("reward", None))
    if any(given):
        findings.note(f"resource_pool.reward has no effect: {_NOT_SCORED}")


def _drop_reference(sections: Sections, findings: Issues) -> None:
    """Take out the reference where no loss compares with one. Weights named for it stay a contradiction."""
    blocks = (sections.roles.get("actor", {}), sections.training)
    types = next((block["dpo_loss_type"].value for block in blocks if "dpo_loss_type" in block), None) or ()
    if not set(types) & set(REFERENCE_FREE_LOSSES):
        return
    named = LossConfig(dpo_loss_type=types).named
    section = sections.roles.pop("ref", None)
    given = (section, sections.pools.pop("ref", None), sections.same_pool.pop("ref", None))
    loads = [block["load"].value for block in (*blocks, section or {}) if "load" in block]
    if section and "load" in section and len(set(loads)) > 1:
        findings.problem(
            f"actor_rollout_ref.ref.load={loads[-1]} names a reference, but dpo_loss_type={named} has none; remove it",
            "load",
        )
    elif any(item is not None for item in given):
        findings.note(f"actor_rollout_ref.ref and its pool have no effect: dpo_loss_type={named} has no reference")


def _drop_of_other_scorers(sections: Sections, findings: Issues) -> None:
    """Take out what this way of scoring does not use. `load` stays: beside functions it is a contradiction."""
    way = reward_source(sections)
    unused = {key: no_effect(f"the {way} scoring here does not use it") for key in REWARD_KEYS_OF}
    _drop(sections.training, {key: unused[key] for key in unused if way not in REWARD_KEYS_OF[key]}, findings)
    if way == "model":
        return
    section = sections.roles.get("reward", {})
    if sections.model_of.pop("reward", None) is not None:
        findings.note(f"reward.model has no effect: {_NO_MODEL}")
    for key in sorted((set(section) & FROZEN_KEYS) - {"load", "random_init"}):
        findings.note(f"reward.{key} has no effect: {_NO_MODEL}")
        del section[key]


def _blocks(sections: Sections) -> Iterator[Values]:
    yield from sections.models.values()
    yield sections.training
    yield from sections.roles.values()


def _drop(block: Values, table: Mapping[str, LegacyKey], findings: Issues) -> None:
    for key in [key for key in block if key in table]:
        given: Given = block.pop(key)
        if given.value is not None and given.value not in table[key].fine:
            findings.note(f"{given.origin.section}.{key}={format_value(given.value)} has no effect: {table[key].why}")
