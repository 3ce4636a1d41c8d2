"""Parsing of a composed tree into values by section: every key is a setting, a legacy key, or a problem.

Each value keeps its origin. Which section takes precedence for a role is decided in `precedence` and `resolve`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mindspeed_dpo.config.issues import Issues
from mindspeed_dpo.config.legacy_keys import (
    ALGORITHM_KEYS,
    PROFILER_KEYS,
    canonical_key,
)
from mindspeed_dpo.config.loading.compose import ComposedConfig
from mindspeed_dpo.config.loading.unknown_and_legacy_keys import check_legacy_section, check_other_key
from mindspeed_dpo.config.loading.value_parsing import parse_plain, parse_value
from mindspeed_dpo.config.name_suggestions import did_you_mean, join_words, nearest_name, normalize_key
from mindspeed_dpo.config.settings.registry import SETTINGS, default_section
from mindspeed_dpo.config.settings.trackers import TRACKER_KEYS
from mindspeed_dpo.config.sourced_values import OVERRIDE, Origin, SourcedValue, Values, format_value

_TOP_LEVEL = (
    *("name", "model", "training", "megatron_training", "actor_rollout_ref", "reward", "critic"),
    *("algorithm", "resource_pool", "rl_config", "profiler_config"),
)
POOLS = ("actor_rollout", "ref", "reward")
ALL_POOLS = ("actor_rollout", "rollout", "ref", "reward")
"""`rollout` is not set in a file: it consists of the last processes of `actor_rollout`."""


@dataclass
class Sections:
    """The values of each section by key; a role without a section is absent from `roles`.

    A pool is in `pools` with its number of processes per node, or in `same_pool` with the name of the pool it shares:
    `Sections("mine", training={"lr": …}, roles={"actor": {…}}, pools={"actor_rollout": (8,)})`.
    """

    name: str
    models: dict[str, Values] = field(default_factory=dict)
    training: Values = field(default_factory=dict)
    roles: dict[str, Values] = field(default_factory=dict)
    model_of: dict[str, str] = field(default_factory=dict)
    pools: dict[str, tuple[int, ...]] = field(default_factory=dict)
    same_pool: dict[str, str] = field(default_factory=dict)


class SectionReader:
    """Reads one composed tree and collects problems and notes."""

    def __init__(self, composed: ComposedConfig, issues: Issues) -> None:
        """Prepare to read the tree of `composed`; problems are added to `issues`."""
        self._composed, self._issues = composed, issues
        self._tree = {normalize_key(key): value for key, value in composed.tree.items()}

    def read(self) -> Sections:
        """Read every section; invalid parts are left out of the result and reported in the issues."""
        self._check_top_level()
        sections = Sections(name=str(self._tree.get("name") or self._composed.name))
        for name, block in self._mapping(self._tree, "model").items():
            sections.models[str(name)] = self._read_settings(f"model.{name}", block, f"model/{name}.yaml")
        sections.training = self._read_settings("training", self._tree.get("training"))
        self._read_megatron_training(sections)
        self._read_trackers(sections)
        roles = self._mapping(self._tree, "actor_rollout_ref")
        self._check_section_names("actor_rollout_ref", roles, ("actor_rollout", "ref"))
        self._read_role(sections, "actor", "actor_rollout_ref.actor_rollout", roles.get("actor_rollout"))
        self._read_role(sections, "ref", "actor_rollout_ref.ref", roles.get("ref"))
        self._read_role(sections, "reward", "reward", self._tree.get("reward"))
        self._read_pools(sections)
        profiler = self._mapping(self._tree, "profiler_config")
        self._check_section_names("profiler_config", profiler, ("integrated",))
        for label, block, table in (
            ("algorithm", self._tree.get("algorithm"), ALGORITHM_KEYS),
            ("profiler_config.integrated", profiler.get("integrated"), PROFILER_KEYS),
        ):
            check_legacy_section(label, self._as_mapping(label, block), table, self._issues)
        return sections

    def _check_top_level(self) -> None:
        self._check_section_names("", self._tree, _TOP_LEVEL)
        if self._tree.get("critic") is not None:
            self._issues.add_problem("section critic is refused: PPO is not implemented; remove it")
        if self._tree.get("training") is not None and self._tree.get("megatron_training") is not None:
            self._issues.add_problem("training and megatron_training are two names of one section; keep one")

    def _read_megatron_training(self, sections: Sections) -> None:
        """Read MindSpeed-RL's section, which holds the settings of the run, of its only role, and that role's model."""
        block = dict(self._mapping(self._tree, "megatron_training"))
        if block:
            self._take_model(sections, "actor", block)
            sections.roles["actor"] = {}
            sections.training = self._read_settings("megatron_training", block)

    def _read_trackers(self, sections: Sections) -> None:
        """Read MindSpeed-RL's section of trackers, whose keys can also be set in `training`."""
        block = self._mapping(self._tree, "rl_config")
        for raw in block:
            if canonical_key(raw) not in TRACKER_KEYS:
                hint = did_you_mean(canonical_key(raw), TRACKER_KEYS)
                self._issues.add_problem(f"rl_config.{normalize_key(raw)} is not a known key{hint}")
        trackers = {raw: value for raw, value in block.items() if canonical_key(raw) in TRACKER_KEYS}
        for key, item in self._read_settings("rl_config", trackers).items():
            other = sections.training.setdefault(key, item)
            if other.value != item.value:
                self._issues.add_problem(
                    f"rl_config.{key}={format_value(item.value)} differs from {other.origin.section}.{key}="
                    f"{format_value(other.value)}; keep one",
                    key,
                )

    def _read_role(self, sections: Sections, role: str, label: str, block: Any) -> None:
        if block is None:
            return
        settings = dict(block) if isinstance(block, Mapping) else block
        if isinstance(settings, dict):
            self._take_model(sections, role, settings)
        sections.roles[role] = self._read_settings(label, settings)

    @staticmethod
    def _take_model(sections: Sections, role: str, block: dict[str, Any]) -> None:
        name = block.pop("model", None)
        if name is not None:
            sections.model_of[role] = str(name)

    def _read_settings(self, label: str, block: Any, file: str = "") -> Values:
        values: Values = {}
        for raw, value in self._as_mapping(label, block).items():
            key, written = canonical_key(raw), normalize_key(raw)
            if self._is_repeated(label, key, block):
                continue
            source = self._source(label, written, file)
            if key in SETTINGS:
                item = self._read_setting(Origin(label, source), key, written, value)
            else:
                item = check_other_key(Origin(label, source), key, written, value, self._issues)
            if item is not None:
                values[key] = item
        return values

    def _read_setting(self, origin: Origin, key: str, written: str, value: Any) -> SourcedValue | None:
        try:
            parsed = parse_value(value, SETTINGS[key])
        except ValueError as reason:
            self._issues.add_problem(f"{origin.section}.{written}={format_value(value)} {reason}", key)
            return None
        if key != written:
            self._issues.add_note(f"{origin.section}.{written} is read as {key}")
        if str(value) in SETTINGS[key].info.synonyms:
            self._issues.add_note(f"{origin.section}.{written}={value} is read as {parsed}")
        return SourcedValue(parsed, Origin(origin.section, origin.source, parsed))

    def _is_repeated(self, label: str, key: str, block: Mapping[Any, Any]) -> bool:
        spellings = [str(raw) for raw in block if canonical_key(raw) == key]
        if len(spellings) > 1:
            self._issues.add_problem(f"{label}: {' and '.join(spellings)} are the same key; keep one", key)
        return len(spellings) > 1

    def _read_pools(self, sections: Sections) -> None:
        pools = self._mapping(self._tree, "resource_pool")
        if pools.get("critic") is not None:
            self._issues.add_problem("resource_pool.critic is refused: PPO is not implemented; remove it")
        if pools.get("rollout") is not None:
            self._issues.add_problem(
                "resource_pool.rollout is refused: the rollout uses the last num_gpus_for_infer processes of "
                "resource_pool.actor_rollout"
            )
        self._check_section_names("resource_pool", pools, (*POOLS, "rollout", "critic"))
        for name in POOLS:
            if pools.get(name) is not None:
                self._read_pool(sections, name, pools[name])

    def _read_pool(self, sections: Sections, name: str, sizes: Any) -> None:
        others = tuple(other for other in ALL_POOLS if other != name)
        counts = [parse_plain(size) for size in (sizes if isinstance(sizes, list) else [sizes])]
        if name != "actor_rollout" and sizes in others:
            sections.same_pool[name] = sizes
        elif counts and all(type(count) is int and count > 0 for count in counts):
            sections.pools[name] = tuple(counts)
        else:
            shared = "" if name == "actor_rollout" else f", or the name of another pool: {join_words(others)}"
            self._issues.add_problem(
                f"resource_pool.{name}={format_value(sizes)} must be the number of processes of each node, such as [8] "
                f"or [8, 8]{shared}",
                name,
            )

    def _check_section_names(self, label: str, block: Mapping[Any, Any], names: tuple[str, ...]) -> None:
        for key, value in block.items():
            if normalize_key(key) not in names:
                is_setting = not label and not isinstance(value, Mapping)
                path, what = f"{label}.{key}" if label else str(key), "key" if is_setting else "section"
                hint = _key_hint(key) if is_setting else ""
                self._issues.add_problem(
                    f"{path} is not a known {what}{hint or did_you_mean(normalize_key(key), names)}"
                )

    def _mapping(self, tree: Mapping[Any, Any], key: str) -> Mapping[Any, Any]:
        block = tree.get(key)
        return block if isinstance(block, Mapping) else self._as_mapping(key, block)

    def _as_mapping(self, label: str, block: Any) -> Mapping[Any, Any]:
        if block is not None and not isinstance(block, Mapping):
            self._issues.add_problem(f"section {label} must contain keys and values, got {format_value(block)}", label)
            return {}
        return block or {}

    def _source(self, label: str, key: str, file: str) -> str:
        path = normalize_key(f"{label}.{key}")
        overrides = self._composed.overrides.items()
        typed = [text for name, text in overrides if name == path or name.startswith(f"{path}.")]
        if typed:
            return f"{OVERRIDE} {' '.join(typed)}"
        given = self._composed.sources
        return given.get(path) or given.get(label) or file or f"{self._composed.name}.yaml"


def _key_hint(key: Any) -> str:
    """Return the end of a sentence about an unknown key without a section: the nearest key and its section."""
    nearest = nearest_name(canonical_key(key), SETTINGS)
    return f"; did you mean {nearest} (section {default_section(nearest)})?" if nearest else ""
