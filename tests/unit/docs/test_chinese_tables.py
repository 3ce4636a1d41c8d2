"""Tables of keys on the Chinese pages have the keys, defaults and values of the English ones, in the same order."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

DOCS = Path(__file__).parents[3] / "docs"
DERIVED = "derived"
Row = tuple[object, ...]


def table_rows(page: str) -> list[list[str]]:
    """Cells of the rows whose first cell is code."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [re.split(r" \| ", line[2:-2]) for line in text.splitlines() if line.startswith("| `")]


def figures(cell: str) -> Counter[str]:
    """Code and numbers of a cell, which no translation changes."""
    return Counter(re.findall(r"`[^`]+`|\d+(?:\.\d+)?", cell))


def default(cell: str) -> str:
    """A default as written, or that it is derived: its formula has words."""
    return DERIVED if cell.startswith("*") else cell.replace("必填", "required")


def reference_rows(page: str) -> list[Row]:
    """Key, default, and the code and numbers of the other cells: choices, limits, accepted values."""
    rows = table_rows(page)
    return [(row[0], default(row[3]) if len(row) == 5 else "", figures(" ".join(row[1:]))) for row in rows]


def keys_elsewhere(page: str) -> list[list[str]]:
    """Keys of another trainer and what they become, without the remark."""
    return [row[:2] for row in table_rows(page) if len(row) == 3]


def sections(page: str) -> list[int]:
    """Depths of the headings."""
    return [len(depth) for depth in re.findall(r"^(#+) ", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)]


def test_the_chinese_reference_has_the_same_keys_and_defaults() -> None:
    english = reference_rows("config-reference.md")
    assert len(english) > 200
    assert reference_rows("config-reference.zh.md") == english, "translate the new rows in config-reference.zh.md"
    assert sections("config-reference.zh.md") == sections("config-reference.md")


def test_the_chinese_page_of_other_trainers_has_the_same_keys() -> None:
    english = keys_elsewhere("migration.md")
    assert len(english) > 200
    assert keys_elsewhere("migration.zh.md") == english, "translate the new rows in migration.zh.md"
