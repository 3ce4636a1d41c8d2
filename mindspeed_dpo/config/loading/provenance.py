"""A report of the origin of each resolved value: a file, an override, a default, or derived from other settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.config.settings.registry import REWARD_KEYS, SETTINGS
from mindspeed_dpo.config.sourced_values import format_value

SAME_AS_ACTOR = "those of the actor"


class ResolvedSetting(NamedTuple):
    """One setting of a run as text, for example `ResolvedSetting("lr", "1e-06", "mine.yaml")`."""

    key: str
    value: str
    source: str


def settings_by_section(run: RunConfig) -> Iterator[tuple[str, list[ResolvedSetting]]]:
    """Yield every setting that has an effect, by the section in which it is normally set."""
    tree = run.as_tree()
    yield "training", _rows(run, "loop", tree["training"])
    for owner, block in tree["model"].items():
        yield f"model of {owner}", _rows(run, owner, block)
    roles = {"actor": tree["actor_rollout_ref"]["actor_rollout"]}
    roles.update({"ref": tree["actor_rollout_ref"].get("ref"), "reward": tree.get("reward")})
    for owner, block in roles.items():
        if block:
            yield owner, _rows(run, owner, block)


def _rows(run: RunConfig, owner: str, block: dict[str, Any]) -> list[ResolvedSetting]:
    if owner != "loop" and _equals_actor(run, owner):
        return [ResolvedSetting("all", "", SAME_AS_ACTOR)]
    return [
        ResolvedSetting(key, format_value(value), source_of(run, owner, key, value))
        for key, value in block.items()
        if key != "model"
    ]


def source_of(run: RunConfig, owner: str, key: str, value: Any) -> str:
    """Return where a value came from, for example `mine.yaml` or `derived: train_iters`.

    Args:
        run: The run.
        owner: `loop` or a role.
        key: Key of the setting.
        value: The resolved value.
    """
    # Settings of the reward have a single value for the run, whichever section sets them.
    paths = (f"{owner}.{key}", *((f"actor.{key}",) if key in REWARD_KEYS else ()))
    origin = next((run.origins[path] for path in paths if path in run.origins), None)
    if origin is not None and origin.written is not None:
        is_changed = _as_list(origin.written) != _as_list(value)
        return f"derived from {format_value(origin.written)} in {origin.source}" if is_changed else origin.source
    setting = SETTINGS[key]
    if not setting.is_required and _as_list(setting.default) == _as_list(value):
        return "default"
    return f"derived: {setting.info.derived}" if setting.info.derived else "derived"


def _equals_actor(run: RunConfig, role: str) -> bool:
    return role == "ref" and not any(path.startswith("ref.") for path in run.origins)


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
