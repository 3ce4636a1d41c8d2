"""The report of all findings, as text or as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from mindspeed_dpo.doctor.findings import FIX, NOT_CHECKED, NOTE, Finding

_NAME_WIDTH = 26
_INDENT = " " * 11


def group_text(title: str, findings: Sequence[Finding]) -> str:
    """Format the findings of one group under its title."""
    return "\n".join([title, *(line for finding in findings for line in _lines(finding))]) + "\n\n"


def _lines(finding: Finding) -> Iterable[str]:
    is_checked = finding.verdict != NOT_CHECKED
    verdict, detail = (finding.verdict, finding.detail) if is_checked else ("-", f"not checked: {finding.detail}")
    yield f"  {verdict:<8} {finding.name:<{_NAME_WIDTH}} {detail}".rstrip()
    if finding.remedy:
        yield f"{_INDENT}{'':<{_NAME_WIDTH}} → {finding.remedy}"


def summary(findings: Iterable[Finding]) -> str:
    """Format the last line: how many problems, notes and checks that were not made."""
    counts = Counter(finding.verdict for finding in findings)
    parts = [_count(counts[FIX], "problem") + " to fix" if counts[FIX] else "nothing to fix"]
    if counts[NOTE]:
        parts.append(_count(counts[NOTE], "note"))
    if counts[NOT_CHECKED]:
        parts.append(f"{counts[NOT_CHECKED]} not checked")
    return ", ".join(parts) + "\n"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def as_json(kind: str, groups: Mapping[str, Sequence[Finding]]) -> str:
    """Format all findings as one JSON object: `device`, `to_fix`, and `findings` with the title of each as `group`."""
    findings = [
        {
            "group": title,
            "verdict": finding.verdict,
            "detail": finding.detail,
            "remedy": finding.remedy,
            "name": finding.name,
        }
        for title, group in groups.items()
        for finding in group
    ]
    to_fix = sum(finding["verdict"] == FIX for finding in findings)
    return json.dumps({"device": kind, "to_fix": to_fix, "findings": findings}, ensure_ascii=False, indent=2) + "\n"
