"""From a plain tree to checked values by section: every key is a setting, a known older key, or a problem.

Each value keeps where it came from. Which section wins for which role is decided in `resolve`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mindspeed_dpo.config.issues import Issues
from mindspeed_dpo.config.legacy.aliases import ALIASES, canonical, did_you_mean, listing, nearest, plain
from mindspeed_dpo.config.legacy.megatron_keys import PROFILER, ROLE_KEYS, LegacyKey
from mindspeed_dpo.config.loading.compose import ComposedConfig
from mindspeed_dpo.config.loading.parse import coerce, format_value
from mindspeed_dpo.config.settings.registry import SETTINGS, home
from mindspeed_dpo.config.settings.stage_keys import ALGORITHM, LEFTOVERS
from mindspeed_dpo.config.settings.trackers import TRACKER_KEYS

_KNOWN_KEYS = {**ROLE_KEYS, **LEFTOVERS}
_TOP_LEVEL = (
    *("name", "model", "training", "megatron_training", "actor_rollout_ref", "reward", "critic"),
    *("algorithm", "resource_pool", "rl_config", "profiler_config"),
)
POOLS = ("actor_rollout", "ref", "reward")
ALL_POOLS = ("actor_rollout", "rollout", "ref", "reward")
"""`rollout` is not in the file: it is the end of `actor_rollout`."""


@dataclass(frozen=True)
class Origin:
    """Where a value came from.

    Attributes:
        section: The section, such as `training`.
        source: A file or an override.
        written: The value there, which the resolved one may differ from.
    """

    section: str
    source: str
    written: Any = field(default=None, compare=False)


@dataclass(frozen=True)
class Given:
    """One value as declared and its origin. None means that null was written: the default."""

    value: Any
    origin: Origin


Values = dict[str, Given]


@dataclass
class Sections:
    """The settings of each section by key; a role that has no section is absent from `roles`.

    A pool is in `pools` with its processes per node, or in `same_pool` with the name of the pool it is to be.
    """

    name: str
    models: dict[str, Values] = field(default_factory=dict)
    training: Values = field(default_factory=dict)
    roles: dict[str, Values] = field(default_factory=dict)
    model_of: dict[str, str] = field(default_factory=dict)
    pools: dict[str, tuple[int, ...]] = field(default_factory=dict)
    same_pool: dict[str, str] = field(default_factory=dict)


class SectionReader:
    """Reads one composed tree, gathering problems and notes."""

    def __init__(self, composed: ComposedConfig, findings: Issues) -> None:
        """Keep the tree with its top-level names spelled plainly."""
        self._composed, self._findings = composed, findings
        self._tree = {plain(key): value for key, value in composed.tree.items()}

    def read(self) -> Sections:
        """Read every section; what is wrong is in the findings afterwards."""
        self._check_top_level()
        out = Sections(name=str(self._tree.get("name") or self._composed.name))
        for name, block in self._mapping(self._tree, "model").items():
            out.models[str(name)] = self._settings(f"model.{name}", block, f"model/{name}.yaml")
        out.training = self._settings("training", self._tree.get("training"))
        self._read_megatron_training(out)
        self._read_trackers(out)
        roles = self._mapping(self._tree, "actor_rollout_ref")
        self._only_known("actor_rollout_ref", roles, ("actor_rollout", "ref"))
        self._read_role(out, "actor", "actor_rollout_ref.actor_rollout", roles.get("actor_rollout"))
        self._read_role(out, "ref", "actor_rollout_ref.ref", roles.get("ref"))
        self._read_role(out, "reward", "reward", self._tree.get("reward"))
        self._read_pools(out)
        self._read_leftovers()
        return out

    def _check_top_level(self) -> None:
        self._only_known("", self._tree, _TOP_LEVEL)
        if self._tree.get("critic") is not None:
            self._findings.problem("section critic is refused: PPO is not trained here; remove it")
        if self._tree.get("training") is not None and self._tree.get("megatron_training") is not None:
            self._findings.problem("training and megatron_training are two names of one section; keep one")

    def _read_megatron_training(self, out: Sections) -> None:
        """MindSpeed-RL's section: the settings of the run and of its only trained role, and which model that is."""
        block = dict(self._mapping(self._tree, "megatron_training"))
        if block:
            self._take_model(out, "actor", block)
            out.roles["actor"] = {}
            out.training = self._settings("megatron_training", block)

    def _read_trackers(self, out: Sections) -> None:
        """MindSpeed-RL's section of trackers, whose keys may as well stand in `training`."""
        block = self._mapping(self._tree, "rl_config")
        for raw in block:
            if canonical(raw) not in TRACKER_KEYS:
                near = did_you_mean(canonical(raw), TRACKER_KEYS)
                self._findings.problem(f"rl_config.{plain(raw)} is not a known key{near}")
        known = {raw: value for raw, value in block.items() if canonical(raw) in TRACKER_KEYS}
        for key, given in self._settings("rl_config", known).items():
            other = out.training.setdefault(key, given)
            if other.value != given.value:
                text = f"rl_config.{key}={format_value(given.value)} differs from {other.origin.section}.{key}={format_value(other.value)}"
                self._findings.problem(f"{text}; keep one", key)

    def _read_role(self, out: Sections, role: str, label: str, block: Any) -> None:
        if block is None:
            return
        settings = dict(block) if isinstance(block, Mapping) else block
        if isinstance(settings, dict):
            self._take_model(out, role, settings)
        out.roles[role] = self._settings(label, settings)

    @staticmethod
    def _take_model(out: Sections, role: str, block: dict[str, Any]) -> None:
        name = block.pop("model", None)
        if name is not None:
            out.model_of[role] = str(name)

    def _settings(self, label: str, block: Any, file: str = "") -> Values:
        values: Values = {}
        for raw, value in self._as_mapping(label, block).items():
            key = canonical(raw)
            if self._spelled_twice(label, key, block):
                continue
            if key not in SETTINGS:
                self._older_key(label, plain(raw), key, value)
                continue
            try:
                read = coerce(value, SETTINGS[key])
            except ValueError as reason:
                self._findings.problem(f"{label}.{plain(raw)}={format_value(value)} {reason}", key)
                continue
            if key != plain(raw):
                self._findings.note(f"{label}.{plain(raw)} is read as {key}")
            values[key] = Given(read, Origin(label, self._source(label, plain(raw), file), read))
        return values

    def _spelled_twice(self, label: str, key: str, block: Mapping[Any, Any]) -> bool:
        spellings = [str(raw) for raw in block if canonical(raw) == key]
        if len(spellings) > 1:
            self._findings.problem(f"{label}: {' and '.join(spellings)} are one key spelled twice; keep one", key)
        return len(spellings) > 1

    def _older_key(self, label: str, written: str, key: str, value: Any) -> None:
        if key in _KNOWN_KEYS:
            self._known(f"{label}.{written}", _KNOWN_KEYS[key], value)
        else:
            near = nearest(key, [*SETTINGS, *_KNOWN_KEYS, *ALIASES])
            where = f" (section {home(near)})" if near in SETTINGS else ""
            hint = f"; did you mean {near}{where}?" if near else ""
            self._findings.problem(f"{label}.{key} is not a known key{hint}", key)

    def _known(self, path: str, known: LegacyKey, value: Any) -> None:
        flag = {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value
        if flag is None or flag in known.fine:
            return
        verdict = "is refused" if known.refused else "has no effect"
        tell = self._findings.problem if known.refused else self._findings.note
        tell(f"{path}={format_value(value)} {verdict}: {known.why}")

    def _read_leftovers(self) -> None:
        profiler = self._mapping(self._tree, "profiler_config")
        self._only_known("profiler_config", profiler, ("integrated",))
        self._known_section("algorithm", self._tree.get("algorithm"), ALGORITHM)
        self._known_section("profiler_config.integrated", profiler.get("integrated"), PROFILER)

    def _known_section(self, label: str, block: Any, table: Mapping[str, LegacyKey]) -> None:
        for key, value in _flat(self._as_mapping(label, block)).items():
            if key in table:
                self._known(f"{label}.{key}", table[key], value)
            else:
                self._findings.problem(f"{label}.{key} is not a known key{did_you_mean(key, table)}")

    def _read_pools(self, out: Sections) -> None:
        pools = self._mapping(self._tree, "resource_pool")
        if pools.get("critic") is not None:
            self._findings.problem("resource_pool.critic is refused: PPO is not trained here; remove it")
        if pools.get("rollout") is not None:
            text = "the rollout has the last num_gpus_for_infer processes of resource_pool.actor_rollout"
            self._findings.problem(f"resource_pool.rollout is refused: {text}")
        self._only_known("resource_pool", pools, (*POOLS, "rollout", "critic"))
        for name in POOLS:
            if pools.get(name) is not None:
                self._read_pool(out, name, pools[name])

    def _read_pool(self, out: Sections, name: str, sizes: Any) -> None:
        others = tuple(other for other in ALL_POOLS if other != name)
        counts: list[Any] = sizes if isinstance(sizes, list) else [sizes]
        if name != "actor_rollout" and sizes in others:
            out.same_pool[name] = sizes
        elif counts and all(type(count) is int and count > 0 for count in counts):
            out.pools[name] = tuple(counts)
        else:
            shared = "" if name == "actor_rollout" else f", or name another pool: {listing(others)}"
            text = f"resource_pool.{name}={format_value(sizes)} must list processes per node, such as [8] or [8, 8]{shared}"
            self._findings.problem(text, name)

    def _only_known(self, label: str, block: Mapping[Any, Any], known: tuple[str, ...]) -> None:
        for key in block:
            if plain(key) not in known:
                path = f"{label}.{key}" if label else str(key)
                self._findings.problem(f"{path} is not a known section{did_you_mean(plain(key), known)}")

    def _mapping(self, tree: Mapping[Any, Any], key: str) -> Mapping[Any, Any]:
        block = tree.get(key)
        return block if isinstance(block, Mapping) else self._as_mapping(key, block)

    def _as_mapping(self, label: str, block: Any) -> Mapping[Any, Any]:
        if block is not None and not isinstance(block, Mapping):
            self._findings.problem(f"section {label} must hold keys and values, got {format_value(block)}", label)
            return {}
        return block or {}

    def _source(self, label: str, key: str, file: str) -> str:
        path = plain(f"{label}.{key}")
        typed = [text for name, text in self._composed.overrides.items() if name == path or name.startswith(f"{path}.")]
        return f"override {' '.join(typed)}" if typed else file or f"{self._composed.name}.yaml"


def _flat(block: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for raw, value in block.items():
        key = f"{prefix}{plain(raw)}"
        flat.update(_flat(value, f"{key}.") if isinstance(value, Mapping) else {key: value})
    return flat
