"""What a check has found: one line, and what to do where something is wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace

OK, NOTE, FIX, ABSENT = "ok", "note", "fix", "not here"
VERDICTS = (OK, NOTE, FIX, ABSENT)


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        verdict: `ok`; `note`, which stops nothing; `fix`; or `not here`, where the check cannot be made.
        found: What is there, or why nothing could be said.
        remedy: What to do; empty for `ok` and `not here`.
        name: What was looked at; empty is the name of the check.
    """

    verdict: str
    found: str
    remedy: str = ""
    name: str = ""

    def named(self, name: str) -> Finding:
        """The same about `name`, unless it has a name of its own."""
        return self if self.name else replace(self, name=name)


def ok(found: str, name: str = "") -> Finding:
    """All is well."""
    return Finding(OK, found, name=name)


def note(found: str, remedy: str, name: str = "") -> Finding:
    """Works, but the reader should know."""
    return Finding(NOTE, found, remedy, name)


def fix(found: str, remedy: str, name: str = "") -> Finding:
    """Keeps a run from working."""
    return Finding(FIX, found, remedy, name)


def absent(why: str, name: str = "") -> Finding:
    """Cannot be checked here."""
    return Finding(ABSENT, why, name=name)
