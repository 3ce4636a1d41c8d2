"""The table of supported versions: comparison of versions, and agreement with pyproject.toml and the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mindspeed_dpo.doctor.clusters import MATCHING_PACKAGES
from mindspeed_dpo.doctor.versions import CANN, MINDSPEED_BRANCH, PACKAGES, PYTHON, satisfies

ROOT = Path(__file__).resolve().parents[3]
PROJECT = (ROOT / "pyproject.toml").read_text().split("[tool.")[0]
PAGES = [ROOT / "docs" / "ascend.md", ROOT / "docs" / "ascend.zh.md"]


@pytest.mark.parametrize(
    ("version", "specifier", "expected"),
    [
        ("2.7.1", ">=2.7", True),
        ("2.6.9", ">=2.7", False),
        ("2.13.0+cpu", ">=2.7", True),
        ("2.7.1+cpu", "==2.7.1", True),
        ("2.7.1.post4", "==2.7.1", False),
        ("2.7.1.post4", "==2.7.1.post4", True),
        ("2.7.1.post5", "==2.7.1.post4", False),
        ("0.16.1", ">=0.16,<0.17", True),
        ("0.17.0", ">=0.16,<0.17", False),
        ("1.26.4", ">=1.26,<2", True),
        ("2.0.0rc1", ">=1.26,<2", False),
        ("5.24", "<6", True),
        ("1.0", "", True),
    ],
)
def test_versions_are_compared_number_by_number(version: str, specifier: str, expected: bool) -> None:
    assert satisfies(version, specifier) is expected


def test_an_unknown_specifier_is_rejected() -> None:
    with pytest.raises(ValueError, match="'~=1'"):
        satisfies("1.0", "~=1")


@pytest.mark.parametrize("package", PACKAGES)
def test_the_table_matches_pyproject(package: str) -> None:
    supported = PACKAGES[package]
    written = set(re.findall(rf'"{re.escape(package)}([<>=][^";]*|)(?:;[^"]*)?"', PROJECT))
    assert supported.accepted in written
    # The extra for NPUs may narrow the range; it leaves torch to the torch_npu wheel.
    assert package == "torch" or written <= {supported.accepted, supported.ascend}


def test_python_and_the_tested_versions_match_the_table() -> None:
    assert f'requires-python = "{PYTHON.accepted}"' in PROJECT
    assert all(satisfies(one.tested, one.accepted) for one in [PYTHON, *PACKAGES.values()] if one.tested != "-")
    assert set(MATCHING_PACKAGES) - {"mindspeed-dpo"} <= set(PACKAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_ascend_pages_contain_the_table(page: Path) -> None:
    rows = [[cell.strip().strip("`") for cell in line.split("|")[1:-1]] for line in page.read_text().splitlines()]
    written = {row[0]: tuple(row[1:4]) for row in rows if len(row) >= 4}
    expected = {name: (one.accepted or "any", one.ascend or "any", one.tested) for name, one in PACKAGES.items()}
    expected["Python"] = (PYTHON.accepted, PYTHON.ascend, PYTHON.tested)
    assert {name: written.get(name) for name in expected} == expected
    assert f"CANN {CANN}" in page.read_text() and MINDSPEED_BRANCH in page.read_text()


def test_the_readme_has_the_same_versions() -> None:
    text = (ROOT / "README.md").read_text()
    named = (f"CANN {CANN}", MINDSPEED_BRANCH, f"torch{PACKAGES['torch'].ascend}", PACKAGES["torch_npu"].ascend[2:])
    assert [name for name in named if name not in text] == []
