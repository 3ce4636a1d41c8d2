"""Where each resolved value came from: a file, an override, a default, or what other settings made of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from mindspeed_dpo.config.loading.parse import format_value
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.config.settings.registry import REWARD_KEYS, SETTINGS

OF_ACTOR = "those of the actor"


class Resolved(NamedTuple):
    """One setting of a run as text: key, value, and where the value came from."""

    key: str
    value: str
    source: str


def settings_by_section(run: RunConfig) -> Iterator[tuple[str, list[Resolved]]]:
    """Every setting that has an effect, by the section where it usually stands."""
    tree = run.as_tree()
    yield "training", _rows(run, "loop", tree["training"])
    for owner, block in tree["model"].items():
        yield f"model of {owner}", _rows(run, owner, block)
    roles = {"actor": tree["actor_rollout_ref"]["actor_rollout"]}
    roles.update({"ref": tree["actor_rollout_ref"].get("ref"), "reward": tree.get("reward")})
    for owner, block in roles.items():
        if block:
            yield owner, _rows(run, owner, block)


def _rows(run: RunConfig, owner: str, block: dict[str, Any]) -> list[Resolved]:
    if owner != "loop" and _has_nothing_of_its_own(run, owner):
        return [Resolved("all", "", OF_ACTOR)]
    return [
        Resolved(key, format_value(value), source_of(run, owner, key, value))
        for key, value in block.items()
        if key != "model"
    ]


def source_of(run: RunConfig, owner: str, key: str, value: Any) -> str:
    """Where a value came from.

    Args:
        run: The run.
        owner: `loop` or a role.
        key: Of the setting.
        value: As resolved.
    """
    # What scores is one value of the run, in whichever section it is told.
    names = (f"{owner}.{key}", *((f"actor.{key}",) if key in REWARD_KEYS else ()))
    origin = next((run.origins[name] for name in names if name in run.origins), None)
    if origin is not None and origin.written is not None:
        changed = _plain(origin.written) != _plain(value)
        return f"derived from {format_value(origin.written)} in {origin.source}" if changed else origin.source
    item = SETTINGS[key]
    if not item.required and _plain(item.default) == _plain(value):
        return "default"
    return f"derived: {item.about.derived}" if item.about.derived else "derived"


def _has_nothing_of_its_own(run: RunConfig, role: str) -> bool:
    return role == "ref" and not any(name.startswith("ref.") for name in run.origins)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
