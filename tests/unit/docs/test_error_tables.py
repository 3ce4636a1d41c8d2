"""The tables that `make numerics` writes are the same on the English and the Chinese page."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recordings import error_tables
from tests.recordings.error_tables import END, START, TRANSLATIONS, in_chinese, tables, write_tables, written


def test_the_pages_have_the_same_tables() -> None:
    assert written("numerics.zh.md") == in_chinese(written("numerics.md")), "run make numerics, or copy the tables"
    assert written("numerics.md").count("| TRL |") == 6


def test_both_pages_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_tables, "DOCUMENTS", tmp_path)
    monkeypatch.setattr(error_tables, "tables", lambda _: "First step, logged values:\n\n| case | TRL |")
    for name in ("numerics.md", "numerics.zh.md"):
        (tmp_path / name).write_text(f"before {START} old {END} after", encoding="utf-8")
    TRANSLATIONS.write_stamp(tmp_path / "numerics.zh.md")
    write_tables({})
    assert written("numerics.md") == "First step, logged values:\n\n| case | TRL |"
    assert written("numerics.zh.md") == "第一步，记录值：\n\n| 用例 | TRL |"
    assert (tmp_path / "numerics.zh.md").read_text(encoding="utf-8").endswith(f"{END} after")
    assert TRANSLATIONS.is_current(tmp_path / "numerics.zh.md")


def test_no_english_word_is_left() -> None:
    titles = [line for line in in_chinese(tables({})).splitlines() if line.endswith((":", "："))]
    assert len(titles) == 6
    assert not [title for title in titles if "step" in title or "weights" in title or "odels" in title]
