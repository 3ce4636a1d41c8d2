"""The report of a conversion: what was changed, what has no counterpart and why, and what is left to do."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from mindspeed_dpo.migration.outcome import Migration

WIDTH = 110


def report_lines(migration: Migration, problems: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a report.

    Args:
        migration: The conversion.
        problems: What prevents a run with its YAML file.
    """
    yield f"{migration.source}: {len(migration.settings)} settings"
    if migration.changed:
        yield "\nChanged:"
        yield from (line for sentence in _changes(migration) for line in _wrapped(sentence))
    if migration.left_out:
        yield "\nWithout counterpart:"
        for reason, keys in _by_reason(migration).items():
            yield from _wrapped(f"{', '.join(keys)}: {reason}")
    if migration.always_so:
        yield "\nSo without a setting:"
        yield from _wrapped(", ".join(migration.always_so))
    to_do = [*migration.to_do, *(problem for problem in problems if not _is_known(problem, migration))]
    if to_do:
        yield "\nTo do:"
        yield from (line for sentence in to_do for line in _wrapped(sentence))


def _changes(migration: Migration) -> Iterator[str]:
    for old in dict.fromkeys(old for old, _, _ in migration.changed):
        new = [setting for other, setting, _ in migration.changed if other == old]
        remarks = dict.fromkeys(text for other, _, text in migration.changed if other == old and text)
        remark = f" ({'; '.join(remarks)})" if remarks else ""
        yield f"{old} -> {', '.join(new)}{remark}"


def _by_reason(migration: Migration) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for key, reason in migration.left_out:
        reasons.setdefault(reason, []).append(key)
    return reasons


def _is_known(problem: str, migration: Migration) -> bool:
    """Whether what has to be done names the key of a problem already."""
    return any(f".{sentence.split(':')[0]} is required" in problem for sentence in migration.to_do)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
