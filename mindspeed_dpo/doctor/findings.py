"""The result of a check: one line, with a remedy if there is a problem."""

from __future__ import annotations

from dataclasses import dataclass, replace

OK, NOTE, FIX, NOT_CHECKED = "ok", "note", "fix", "not here"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Example:
        Finding("fix", "2.6.0 is installed, ==2.7.1 is required", "pip install 'torch==2.7.1'", "torch")

    Attributes:
        verdict: `ok`; `note`, which does not prevent a run; `fix`; or `not here` if the check does not apply.
        detail: The observed state, or the reason why the check was not made.
        remedy: What to do; empty for `ok` and `not here`.
        name: What was checked; empty for the name of the check.
    """

    verdict: str
    detail: str
    remedy: str = ""
    name: str = ""

    def with_default_name(self, name: str) -> Finding:
        """Return the finding under `name`, unless it has a name of its own."""
        return self if self.name else replace(self, name=name)


def ok(detail: str, name: str = "") -> Finding:
    """Return a finding without a problem."""
    return Finding(OK, detail, name=name)


def note(detail: str, remedy: str, name: str = "") -> Finding:
    """Return a finding that does not prevent a run but may need attention."""
    return Finding(NOTE, detail, remedy, name)


def fix(detail: str, remedy: str, name: str = "") -> Finding:
    """Return a finding that prevents a run."""
    return Finding(FIX, detail, remedy, name)


def not_checked(reason: str, name: str = "") -> Finding:
    """Return the finding of a check that cannot be made here."""
    return Finding(NOT_CHECKED, reason, name=name)
