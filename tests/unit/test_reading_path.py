"""The tables of docs/architecture.md follow the code, and names of files and classes tell a reader where he is."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mindspeed_dpo"
MAX_FILES = 8
MAX_SAME_NAME = 2
EXEMPT = {"__init__.py", "__main__.py", "conftest.py"}
"""Names that Python and pytest prescribe."""


def rows(heading: str) -> list[list[str]]:
    """Cells of the table after a heading in bold."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split(f"**{heading}**", 1)[1]
    table = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert table is not None, heading
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines()[2:]]


def source(name: str) -> Path:
    return ROOT / name if "/" not in name else PACKAGE / name


def defined_names(path: Path) -> set[str]:
    """Functions and classes of a module, and methods after the names of their classes."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return names


@pytest.mark.parametrize("heading", ["Offline", "Online"])
def test_every_file_and_function_of_the_tables_exists(heading: str) -> None:
    table = rows(heading)
    assert table
    for _, files, functions in table:
        parts = files.split("→"), functions.split(": ", 1)[0].split("→")
        for file, named in zip(*parts, strict=True):
            (name,) = re.findall(r"`([^`]+)`", file)
            expected = set(re.findall(r"`([^`]+)`", named))
            assert expected, functions
            assert expected <= defined_names(source(name)), f"{name} lacks {expected - defined_names(source(name))}"


def test_the_offline_path_is_short() -> None:
    files = [name for _, cell, _ in rows("Offline") for name in re.findall(r"`([^`]+)`", cell)]
    assert len(files) <= MAX_FILES and len(set(files)) == len(files)
    assert files[0] == "commands/train.py" and files[-1].startswith("algorithms/losses/")


def test_no_file_name_is_used_three_times() -> None:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    counts = Counter(Path(line).name for line in listed.stdout.splitlines())
    assert counts
    assert {name for name, count in counts.items() if count > MAX_SAME_NAME} <= EXEMPT


def test_classes_of_the_package_have_different_names() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")]
    counts = Counter(node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert len(counts) > 1
    assert not [name for name, count in counts.items() if count > 1]
