"""Rules that say what becomes of a key of another trainer, as data: the conversion and the documentation read both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from mindspeed_dpo.config.loading.value_parsing import parse_plain
from mindspeed_dpo.config.name_suggestions import join_words
from mindspeed_dpo.migration.outcome import Migration, as_text

Conversion = Callable[[Any], "Mapping[str, Any] | str"]
"""A foreign value to settings of this project, or to the reason for which it has none."""


@dataclass(frozen=True)
class KeyRule:
    """The treatment of one foreign key, for example `KeyRule(("dpo_beta",), "", lambda value: {"dpo_beta": value})`.

    Attributes:
        targets: The settings that it becomes; () for a key without counterpart.
        remark: Why it has none, or what a user should know.
        convert: The conversion of a value.
        is_combined: It is read together with others, by code that reports it.
    """

    targets: tuple[str, ...]
    remark: str
    convert: Conversion
    is_combined: bool = False


def becomes(key: str, remark: str = "", values: Mapping[Any, Any] | None = None, **others: Any) -> KeyRule:
    """Declare a key with another name here.

    Args:
        key: The setting.
        remark: What a user should know.
        values: Foreign values and what they become; all others keep their value if None, else they are refused.
        others: Further settings that it implies.
    """

    def convert(value: Any) -> Mapping[str, Any] | str:
        if values is None:
            return {key: value, **others}
        plain = parse_plain(value)
        if isinstance(plain, list | Mapping) or plain not in values:
            return f"{as_text(value)} has no counterpart; {key} may be {join_words(dict.fromkeys(values.values()))}"
        return {key: values[plain], **others}

    return KeyRule((key, *others), remark, convert)


def combined(*targets: str, remark: str) -> KeyRule:
    """Declare a key that is read together with others by the source's own code."""
    return KeyRule(targets, remark, lambda value: {}, is_combined=True)


def none(reason: str) -> KeyRule:
    """Declare a key without counterpart; `reason` says why, or what to do."""
    return KeyRule((), reason, lambda value: reason)


def always(reason: str, *accepted: Any) -> KeyRule:
    """Declare a key that is left out silently if it has one of the accepted values, or any if none is given."""
    return KeyRule((), reason, lambda value: {} if not accepted or parse_plain(value) in accepted else reason)


def find_rule(key: str, rules: Mapping[str, KeyRule]) -> KeyRule | None:
    """Look up a key: first by its name, then by the patterns in their order."""
    return rules.get(key) or next((rules[name] for name in rules if "*" in name and fnmatchcase(key, name)), None)


def apply_rules(values: Mapping[str, Any], rules: Mapping[str, KeyRule], migration: Migration, tool: str) -> None:
    """Convert every value by the rule of its key, or report why it is left out.

    Args:
        values: Foreign keys and values.
        rules: Rules by key or pattern.
        migration: Receives settings and reports.
        tool: Name of the trainer, for keys that no rule names.
    """
    for key, value in values.items():
        apply_rule(key, value, find_rule(key, rules), migration, tool)


def apply_rule(key: str, value: Any, rule: KeyRule | None, migration: Migration, tool: str) -> None:
    """Convert one value by the rule of its key; None for a key that no rule names."""
    written = f"{key}={as_text(value)}"
    if rule is None:
        migration.leave_out(
            written, f"it is not known as a key of {tool}; docs/config-reference.md lists the keys here"
        )
        return
    outcome = rule.convert(value)
    if isinstance(outcome, str):
        migration.leave_out(written, outcome)
    elif outcome:
        for target, setting in outcome.items():
            migration.set(target, setting, written, rule.remark)
    elif not rule.is_combined:
        migration.always_so.append(written)
