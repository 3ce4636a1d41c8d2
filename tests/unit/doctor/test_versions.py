"""One table of versions: what it accepts, and that pyproject.toml and the pages for Ascend say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mindspeed_dpo.doctor.clusters import AGREE
from mindspeed_dpo.doctor.versions import CANN, MINDSPEED_BRANCH, PACKAGES, PYTHON, fits

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
    assert fits(version, specifier) is expected


def test_a_condition_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="'~=1'"):
        fits("1.0", "~=1")


@pytest.mark.parametrize("package", PACKAGES)
def test_the_table_and_pyproject_agree(package: str) -> None:
    wanted = PACKAGES[package]
    written = set(re.findall(rf'"{re.escape(package)}([<>=][^";]*|)(?:;[^"]*)?"', PROJECT))
    assert wanted.accepted in written
    # The extra for NPUs may narrow it; torch is left to the wheel of torch_npu there.
    assert package == "torch" or written <= {wanted.accepted, wanted.ascend}


def test_python_and_what_was_run_fit_the_table() -> None:
    assert f'requires-python = "{PYTHON.accepted}"' in PROJECT
    assert all(fits(one.run, one.accepted) for one in [PYTHON, *PACKAGES.values()] if one.run != "-")
    assert set(AGREE) - {"python", "mindspeed-dpo"} <= set(PACKAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_pages_for_ascend_have_the_table(page: Path) -> None:
    rows = [[cell.strip().strip("`") for cell in line.split("|")[1:-1]] for line in page.read_text().splitlines()]
    written = {row[0]: tuple(row[1:4]) for row in rows if len(row) >= 4}
    expected = {name: (one.accepted or "any", one.ascend or "any", one.run) for name, one in PACKAGES.items()}
    expected["Python"] = (PYTHON.accepted, PYTHON.ascend, PYTHON.run)
    assert {name: written.get(name) for name in expected} == expected
    assert f"CANN {CANN}" in page.read_text() and MINDSPEED_BRANCH in page.read_text()


def test_the_readme_names_the_same_versions() -> None:
    text = (ROOT / "README.md").read_text()
    named = (f"CANN {CANN}", MINDSPEED_BRANCH, f"torch{PACKAGES['torch'].ascend}", PACKAGES["torch_npu"].ascend[2:])
    assert [name for name in named if name not in text] == []
