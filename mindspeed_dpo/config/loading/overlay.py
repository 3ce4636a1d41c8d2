"""How sections lie over each other: for one role, its section over `training` over its model file; then the default."""

from __future__ import annotations

from typing import Any, TypeVar

from mindspeed_dpo.config.issues import Issues
from mindspeed_dpo.config.legacy.aliases import did_you_mean, listing
from mindspeed_dpo.config.loading.sections import Sections, Values
from mindspeed_dpo.config.settings.field import declared
from mindspeed_dpo.config.settings.registry import SHARED_KEYS, stand_in

Group = TypeVar("Group")


def settle_shared(sections: Sections, findings: Issues) -> None:
    """Move what holds for the whole run into `training`; a role may repeat it, not differ."""
    for key in SHARED_KEYS:
        for role in sections.roles.values():
            given = role.pop(key, None)
            agreed = sections.training.setdefault(key, given) if given else None
            if given and agreed and agreed.value != given.value:
                findings.problem(
                    f"{given.origin.section}.{key}={given.value} differs from {agreed.origin.section}.{key}="
                    f"{agreed.value}; the run has one value, keep it in training",
                    key,
                )


def layered(sections: Sections, role: str, findings: Issues) -> Values:
    """What holds for a role, by key."""
    model = sections.models.get(_model_name(sections, role, findings), {})
    return {**model, **sections.training, **sections.roles.get(role, {})}


def build(kind: type[Group], values: Values, findings: Issues, where: str) -> Group:
    """One group of settings; a required one that is missing is a problem and gets a stand-in."""
    chosen: dict[str, Any] = {}
    for key, item in declared(kind).items():
        given = values.get(key)
        if given is not None and given.value is not None:
            chosen[key] = given.value
        elif item.required:
            # Without a model block everything of the model is missing, which has been said.
            because = ("model",) if where.startswith("model.") else ()
            findings.problem(f"{where}: {key} is missing: {item.about.help}", key, *because)
            chosen[key] = stand_in(item)
    return kind(**chosen)


def value_of(values: Values, key: str) -> Any:
    """The value of a key, None where it is absent."""
    given = values.get(key)
    return given.value if given else None


def _model_name(sections: Sections, role: str, findings: Issues) -> str:
    """The model block of a role; where the file has only one, it need not be named."""
    known = list(sections.models)
    name = sections.model_of.get(role) or (known[0] if len(known) == 1 else "")
    if not known:
        findings.problem("there is no model: add `defaults: - model: [name]` with a file of configs/model", "model")
    elif not name:
        findings.problem(f"{role}: model is missing; choose {listing(known)}", "model")
    elif name not in known:
        findings.problem(
            f"{role}: model={name} is not among the models of `defaults`{did_you_mean(name, known)}", "model"
        )
    return name
