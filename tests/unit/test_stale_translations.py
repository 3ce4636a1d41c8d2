"""A Chinese page is stale when its English page has changed since."""

from __future__ import annotations

from pathlib import Path

from tests.stale_translations import stale_pages, stamp


def test_missing_and_changed_pages_are_listed_until_they_are_stamped(tmp_path: Path) -> None:
    english, chinese = tmp_path / "a.md", tmp_path / "a.zh.md"
    english.write_text("one\n", encoding="utf-8")
    assert stale_pages(tmp_path) == ["a.md has no translation"]
    chinese.write_text("一\n", encoding="utf-8")
    stamp(chinese)
    assert stale_pages(tmp_path) == []
    english.write_text("two\n", encoding="utf-8")
    assert stale_pages(tmp_path) == ["a.md has changed"]
    stamp(chinese)
    assert stale_pages(tmp_path) == []
    assert chinese.read_text(encoding="utf-8").splitlines()[1:] == ["一"]
