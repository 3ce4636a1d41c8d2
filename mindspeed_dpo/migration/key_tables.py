"""The tables of docs/migration.md: `python -m mindspeed_dpo.migration.key_tables docs/migration.md` rewrites them.

Each table stands between `<!-- keys of NAME -->` and `<!-- end -->`; a test compares the page with the rules.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from mindspeed_dpo.migration.huggingface.align_anything_rules import ALIGN_ANYTHING_RULES
from mindspeed_dpo.migration.huggingface.roll_rules import ROLL_RULES
from mindspeed_dpo.migration.huggingface.trl_rules import TRL_RULES
from mindspeed_dpo.migration.mindspeed.key_rules import LAUNCHER_RULES, MINDSPEED_RULES
from mindspeed_dpo.migration.rules import KeyRule
from mindspeed_dpo.untrusted.text_files import read_text

TABLES: dict[str, Mapping[str, KeyRule]] = {
    "MindSpeed-LLM and MindSpeed-RL": {**MINDSPEED_RULES, **LAUNCHER_RULES},
    "TRL": TRL_RULES,
    "ROLL": ROLL_RULES,
    "align-anything": ALIGN_ANYTHING_RULES,
}
"""Rules by the name of their table."""
_TABLE = re.compile(r"(<!-- keys of ([\w -]+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(page: str) -> str:
    """Return the page with every table as the rules have it.

    Raises:
        KeyError: The page has a table of an unknown name.
    """
    return _TABLE.sub(lambda match: f"{match[1]}\n{table(TABLES[match[2]])}\n{match[3]}", page)


def table(rules: Mapping[str, KeyRule]) -> str:
    """Return a table in Markdown: keys that become the same, or are left out for the same reason, share a row."""
    rows: dict[tuple[str, str], list[str]] = {}
    for key, rule in rules.items():
        target = ", ".join(f"`{name}`" for name in rule.targets) or "–"
        remark = rule.remark.replace("|", "\\|")
        rows.setdefault((target, remark), []).append(f"`{key}`")
    return "\n".join(_lines(rows)) + "\n"


def _lines(rows: Mapping[tuple[str, str], list[str]]) -> Iterator[str]:
    yield "| Key there | Here | Remark |"
    yield "|---|---|---|"
    for (target, remark), keys in rows.items():
        yield f"| {', '.join(keys)} | {target} | {remark} |"


def main(arguments: list[str]) -> int:
    """Rewrite the tables of a page."""
    path = Path(arguments[0])
    path.write_text(with_tables(read_text(path)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
