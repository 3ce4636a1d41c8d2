"""Each page has a Chinese counterpart of its present text, and the check of that notices what is missing."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from tests.support.scripts import load_script

ROOT = Path(__file__).parents[3]
TEXT = "# Title\n\n```\nplan\ntrain x=1  # a comment\n```\n\n| Key | Default |\n|---|---|\n| `beta` † | 0.1 |\n"
TRANSLATION = "# 标题\n\n```\nplan\ntrain x=1   # 注释\n```\n\n| 键 | 默认值 |\n|---|---|\n| `beta` † | 0.1 |\n"


@pytest.fixture(scope="module")
def check() -> ModuleType:
    return load_script(ROOT / "docs" / "check_translations.py")


@pytest.fixture()
def pages(tmp_path: Path, check: ModuleType) -> Path:
    """README and a page of a folder, both translated; CONTRIBUTING needs no translation."""
    (tmp_path / "docs" / "tutorials").mkdir(parents=True)
    (tmp_path / "CONTRIBUTING.md").write_text("# Contributing\n")
    for english in (tmp_path / "README.md", tmp_path / "docs" / "tutorials" / "first.md"):
        english.write_text(TEXT)
        chinese = check.counterpart(english)
        chinese.write_text(TRANSLATION)
        check.write_stamp(chinese)
    return tmp_path


def test_every_page_of_the_repository_has_an_up_to_date_translation(check: ModuleType) -> None:
    assert list(check.problems(ROOT)) == []


def test_translated_pages_have_no_problem(check: ModuleType, pages: Path) -> None:
    assert list(check.problems(pages)) == []


def test_a_change_of_the_original_makes_the_translation_stale_until_it_is_stamped(
    check: ModuleType, pages: Path
) -> None:
    (pages / "README.md").write_text((pages / "README.md").read_text() + "\nNew.\n")
    (found,) = check.problems(pages)
    assert found.startswith("README.zh.md is stale: README.md has changed since ")
    before = (pages / "README.zh.md").read_text().splitlines()
    check.write_stamp(pages / "README.zh.md")
    assert list(check.problems(pages)) == []
    assert (pages / "README.zh.md").read_text().splitlines()[1:] == before[1:]


def test_missing_and_left_over_pages_are_named(check: ModuleType, pages: Path) -> None:
    (pages / "docs" / "tutorials" / "first.md").rename(pages / "docs" / "tutorials" / "second.md")
    first, second = check.problems(pages)
    assert first.startswith("docs/tutorials/first.zh.md translates first.md, which does not exist")
    assert second.startswith("docs/tutorials/second.zh.md is missing: translate second.md")


@pytest.mark.parametrize("line", ["", "<!-- translates other.md, sha256 0123456789ab -->\n"])
def test_a_page_without_the_line_of_its_original_is_named(check: ModuleType, pages: Path, line: str) -> None:
    (pages / "README.zh.md").write_text(f"{line}# 标题\n")
    (found,) = check.problems(pages)
    assert found.startswith("README.zh.md should begin with the line '<!-- translates README.md, sha256 ")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("`beta`", "`bate`", "has other first columns of tables than README.md: lacks ['`beta`'], and has ['`bate`']"),
        ("train x=1", "train x=2", "has other code than README.md: lacks ['train x=1'], and has ['train x=2'] instead"),
        ("plan\ntrain x=1", "train x=1\nplan", "the same in another order or number"),
    ],
)
def test_keys_and_commands_are_the_same(check: ModuleType, pages: Path, old: str, new: str, problem: str) -> None:
    chinese = pages / "README.zh.md"
    assert old in chinese.read_text()
    chinese.write_text(chinese.read_text().replace(old, new))
    (found,) = check.problems(pages)
    assert problem in found


def test_only_a_translation_can_be_stamped(check: ModuleType, pages: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a page NAME\.zh\.md beside its NAME\.md"):
        check.write_stamp(pages / "README.md")


def test_the_command_prints_problems_and_fails_on_them(
    check: ModuleType, pages: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "ROOT", pages)
    assert check.main([]) == 0
    (pages / "README.md").write_text("# Another\n")
    assert check.main([]) == 1 and "README.zh.md is stale" in capsys.readouterr().out
    assert check.main(["--stamp", str(pages / "README.zh.md")]) == 0
    assert "has other code" in "".join(check.problems(pages)), "the commands are gone from the original"
