"""Keys that are no settings: unknown ones are problems, those of MindSpeed are accepted, reported or refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mindspeed_dpo.config.issues import Issues
from mindspeed_dpo.config.legacy_keys import ALIASES, CONDITIONAL_VALUES, ROLE_KEYS, LegacyKey, find_legacy_key
from mindspeed_dpo.config.loading.value_parsing import parse_plain
from mindspeed_dpo.config.name_suggestions import did_you_mean, nearest_name, normalize_key
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.config.settings.registry import SETTINGS, default_section
from mindspeed_dpo.config.settings.training import LoopConfig
from mindspeed_dpo.config.sourced_values import Origin, SourcedValue, Values, format_value, value_of


def check_other_key(origin: Origin, key: str, written: str, value: Any, issues: Issues) -> SourcedValue | None:
    """Check a key that is no setting.

    Args:
        origin: Section and source of the value.
        key: The key in its canonical spelling.
        written: The key as it was written.
        value: Its value.
        issues: Where problems and notes are added.

    Returns:
        The value if `resolve` has to check it against settings, otherwise None.
    """
    legacy = find_legacy_key(key, ROLE_KEYS)
    if legacy is None:
        names = [name for name in ROLE_KEYS if "*" not in name]
        nearest = nearest_name(key, [*SETTINGS, *names, *ALIASES])
        where = f" (section {default_section(nearest)})" if nearest in SETTINGS else ""
        hint = f"; did you mean {nearest}{where}?" if nearest else ""
        issues.add_problem(f"{origin.section}.{key} is not a known key{hint}", key)
        return None
    plain = parse_plain(value)
    if plain in CONDITIONAL_VALUES.get(key, ()):
        return SourcedValue(plain, Origin(origin.section, origin.source, plain))
    _check_legacy_value(f"{origin.section}.{written}", legacy, value, issues)
    return None


def check_legacy_section(label: str, block: Mapping[Any, Any], table: Mapping[str, LegacyKey], issues: Issues) -> None:
    """Check a section that has no settings, only the legacy keys of `table`; a dot joins nested names."""
    for key, value in _flat(block).items():
        legacy = find_legacy_key(key, table)
        if legacy is None:
            names = [name for name in table if "*" not in name]
            issues.add_problem(f"{label}.{key} is not a known key{did_you_mean(key, names)}")
        else:
            _check_legacy_value(f"{label}.{key}", legacy, value, issues)


def apply_conditional_keys(values: Values, loop: LoopConfig, actor: RoleConfig, issues: Issues) -> LoopConfig:
    """Check legacy keys whose accepted values depend on settings. `distributed_backend: gloo` selects the CPU."""
    report_context_parallel_algo(values, actor, issues)
    if value_of(values, "do_sample") is False:
        path = f"{values['do_sample'].origin.section}.do_sample"
        issues.add_problem(f"{path}=false is refused: {ROLE_KEYS['do_sample'].reason}", "do_sample")
    if value_of(values, "distributed_backend") != "gloo":
        return loop
    if loop.device in ("npu", "cuda"):
        path = f"{values['distributed_backend'].origin.section}.distributed_backend"
        issues.add_problem(
            f"{path}=gloo runs on the CPU only, but device={loop.device}; remove distributed_backend",
            *("distributed_backend", "device"),
        )
    return dataclasses.replace(loop, device="cpu") if loop.device == "auto" else loop


def report_context_parallel_algo(values: Values, role: RoleConfig, issues: Issues) -> None:
    """Report another context-parallel algorithm than Ulysses: a problem with context parallelism, else a note."""
    item = values.get("context_parallel_algo")
    if item is None:
        return
    path, size = f"{item.origin.section}.context_parallel_algo={item.value}", role.parallel.context_parallel_size
    if size > 1:
        issues.add_problem(
            f"{path} is not implemented with context_parallel_size={size}: rows hold many segments that share prompts, "
            "which only ulysses_cp_algo supports; remove it",
            "context_parallel_algo",
        )
    elif role.name == "actor":
        issues.add_note(f"{path} has no effect: context_parallel_size is 1")


def _check_legacy_value(path: str, legacy: LegacyKey, value: Any, issues: Issues) -> None:
    plain = parse_plain(value)
    if plain is None or plain in legacy.accepted:
        return
    if legacy.is_refused:
        issues.add_problem(f"{path}={format_value(value)} is refused: {legacy.reason}")
    else:
        issues.add_note(f"{path}={format_value(value)} has no effect: {legacy.reason}")


def _flat(block: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for raw, value in block.items():
        key = f"{prefix}{normalize_key(raw)}"
        flat.update(_flat(value, f"{key}.") if isinstance(value, Mapping) else {key: value})
    return flat
