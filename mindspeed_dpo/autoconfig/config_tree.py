"""A composed configuration to which values are added where it has none; each records where it came from."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mindspeed_dpo.config.legacy_keys import canonical_key
from mindspeed_dpo.config.loading.compose import ComposedConfig
from mindspeed_dpo.config.name_suggestions import normalize_key

ACTOR, REF, REWARD = "actor_rollout_ref.actor_rollout", "actor_rollout_ref.ref", "reward"
ROLE_SECTIONS = (ACTOR, REF, REWARD)


class ConfigTree:
    """A copy of a composed configuration that can be completed; `composed` returns the result."""

    def __init__(self, composed: ComposedConfig) -> None:
        self._composed = composed
        self._tree: dict[str, Any] = copy.deepcopy(composed.tree)
        self._sources = dict(composed.sources)
        self._notes = list(composed.notes)

    def composed(self) -> ComposedConfig:
        """Return the configuration with what was added."""
        return replace(self._composed, tree=self._tree, sources=self._sources, notes=tuple(self._notes))

    @property
    def run_section(self) -> str:
        """Name of the section of the run: `training`, or MindSpeed-RL's `megatron_training`."""
        return "megatron_training" if self.section("megatron_training") is not None else "training"

    @property
    def sections(self) -> tuple[str, ...]:
        """The sections of the run and of the roles, of those that exist."""
        return tuple(name for name in (self.run_section, *ROLE_SECTIONS) if self.section(name) is not None)

    def section(self, name: str, *, create: bool = False) -> dict[Any, Any] | None:
        """Return a section by its dotted name; None if it does not exist, or is no mapping."""
        block: Any = self._tree
        for part in name.split("."):
            if not isinstance(block, dict):
                return None
            key = next((raw for raw in block if normalize_key(raw) == part), part)
            if block.get(key) is None and create:
                block[key] = {}
            block = block.get(key)
        return block if isinstance(block, dict) else None

    def get(self, section: str, key: str) -> Any:
        """Return a value as written, whichever its spelling; None if it is absent or null."""
        block = self.section(section) or {}
        return next((value for raw, value in block.items() if canonical_key(raw) == key), None)

    def find(self, key: str) -> Any:
        """Return the value of a key for the actor: that of its section, else of the run; None if it is in neither."""
        value = self.get(ACTOR, key)
        return self.get(self.run_section, key) if value is None else value

    def has(self, key: str) -> bool:
        """Return whether the section of the run or of the actor sets a key, also to null."""
        sections = (self.run_section, ACTOR)
        return any(canonical_key(raw) == key for name in sections for raw in self.section(name) or {})

    def set(self, section: str, key: str, value: Any, source: str) -> None:
        """Set a value, whichever its spelling was before."""
        block = self.section(section, create=True)
        if block is None:  # the section is no mapping, which is reported when it is read
            return
        for raw in [raw for raw in block if canonical_key(raw) == key and raw != key]:
            del block[raw]
        block[key] = value
        self._sources[f"{section}.{key}"] = source

    def fill(self, section: str, values: Mapping[str, Any], source: str) -> None:
        """Set values that the actor has from no section."""
        for key, value in values.items():
            if not self.has(key):
                self.set(section, key, value, source)

    def set_unless_overridden(self, section: str, key: str, value: Any, source: str) -> None:
        """Set a value in place of that of the file; what the command line sets remains."""
        if f"{section}.{key}" not in self._composed.overrides:
            self.set(section, key, value, source)

    def remove(self, key: str) -> None:
        """Remove a key from all sections."""
        for name in self.sections:
            block = self.section(name) or {}
            for raw in [raw for raw in block if canonical_key(raw) == key]:
                del block[raw]

    def add_model(self, name: str, values: Mapping[str, Any], source: str) -> None:
        """Add a model under a name."""
        models = self.section("model", create=True)
        if models is not None:
            models[name] = dict(values)
            self._sources[f"model.{name}"] = source

    def add_note(self, note: str) -> None:
        """Add a remark for the user."""
        self._notes.append(note)

    def name_run(self, name: str) -> None:
        """Name the run, unless the configuration does."""
        if not self._tree.get("name"):
            self._tree["name"] = name
