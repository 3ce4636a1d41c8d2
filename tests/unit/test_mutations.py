"""The list of mutations fits the code: each applies to its file, and the tests that have to notice it exist."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

import pytest

from tests.mutation.catalogue import ROOT, Mutation, read_mutations, select

MUTATIONS = read_mutations()


def test_there_are_at_least_sixty_and_no_name_stands_twice() -> None:
    assert len(MUTATIONS) >= 60
    assert [name for name, count in Counter(one.name for one in MUTATIONS).items() if count > 1] == []
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", one.name) and one.breaks.endswith(".") for one in MUTATIONS)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.name)
def test_a_mutation_applies_and_leaves_code_that_can_be_read(mutation: Mutation) -> None:
    path = ROOT / mutation.file
    assert path.is_relative_to(ROOT / "mindspeed_dpo")
    ast.parse(mutation.mutated(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.name)
def test_the_tests_that_have_to_notice_exist(mutation: Mutation) -> None:
    assert mutation.noticed_by
    for test in mutation.noticed_by:
        file, name = test.split("::", 1)
        assert name.split("[")[0] in functions_of(ROOT / file), test


@lru_cache
def functions_of(path: Path) -> set[str]:
    """Names of the functions at the top of a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_code_that_is_gone_or_stands_twice_is_refused() -> None:
    one = Mutation("losses", "one", "a.py", "x + 1", "x - 1", "It counts down.", ("tests/a.py::test_a",))
    assert one.mutated("y = x + 1") == "y = x - 1"
    for source, count in (("y = x", 0), ("y = x + 1; z = x + 1", 2)):
        with pytest.raises(ValueError, match=f"one: its code occurs {count} times in a.py"):
            one.mutated(source)


def test_a_mutation_is_in_the_copy_only_for_a_while(tmp_path: Path) -> None:
    one = Mutation("losses", "one", "a.py", "x + 1", "x - 1", "It counts down.", ("tests/a.py::test_a",))
    path = tmp_path / "a.py"
    path.write_text("y = x + 1")
    before = path.stat().st_mtime_ns
    with pytest.raises(KeyError), one.applied(tmp_path):
        assert path.read_text() == "y = x - 1" and path.stat().st_mtime_ns != before
        raise KeyError
    assert path.read_text() == "y = x + 1" and path.stat().st_mtime_ns == before


def test_words_choose_by_name_topic_and_file() -> None:
    assert [one.name for one in select(MUTATIONS, ["clipping-"])] == [
        one.name for one in MUTATIONS if one.name.startswith("clipping-")
    ]
    assert {one.topic for one in select(MUTATIONS, ["resume/"])} == {"resume"}
    assert {one.file for one in select(MUTATIONS, ["hinge.py"])} == {"mindspeed_dpo/algorithms/losses/hinge.py"}
    assert select(MUTATIONS, []) == MUTATIONS
    assert select(MUTATIONS, ["no such thing"]) == []
