"""What was found, for people and for machines."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from mindspeed_dpo.doctor.findings import ABSENT, FIX, NOTE, Finding

_NAME_WIDTH = 26
_INDENT = " " * 11


def group_text(title: str, findings: Sequence[Finding]) -> str:
    """A title and its lines."""
    return "\n".join([title, *(line for one in findings for line in _lines(one))]) + "\n\n"


def _lines(finding: Finding) -> Iterable[str]:
    said = f"not here: {finding.found}" if finding.verdict == ABSENT else finding.found
    verdict = "-" if finding.verdict == ABSENT else finding.verdict
    yield f"  {verdict:<8} {finding.name:<{_NAME_WIDTH}} {said}".rstrip()
    if finding.remedy:
        yield f"{_INDENT}{'':<{_NAME_WIDTH}} → {finding.remedy}"


def summary(findings: Iterable[Finding]) -> str:
    """The last line."""
    counts = Counter(finding.verdict for finding in findings)
    to_fix = counts[FIX]
    parts = [f"{to_fix} thing{'s' if to_fix != 1 else ''} to fix" if to_fix else "nothing to fix"]
    if counts[NOTE]:
        parts.append(f"{counts[NOTE]} to know")
    if counts[ABSENT]:
        parts.append(f"{counts[ABSENT]} that cannot be checked here")
    return ", ".join(parts) + "\n"


def as_json(kind: str, groups: Mapping[str, Sequence[Finding]]) -> str:
    """Everything as one JSON object: `device`, `to_fix`, and `findings` with the title of each as `group`."""
    findings = [{"group": title, **dataclasses.asdict(one)} for title, found in groups.items() for one in found]
    to_fix = sum(one["verdict"] == FIX for one in findings)
    return json.dumps({"device": kind, "to_fix": to_fix, "findings": findings}, ensure_ascii=False, indent=2) + "\n"
