"""200 mutations of every kind of file: each is read, or refused in one sentence. `make fuzz` reads more of them."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.child_processes import run_target
from tests.fuzz.mutations import mutate
from tests.fuzz.seeds import write_seeds
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

COUNT = 200
ACCEPTING = ("reference-cache", "rows-", "input-rows.txt", "tokenizer-", "migrate-")
"""Targets that drop a row or a key, or compute a value again, instead of refusing the file."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_seeds(tmp_path_factory.mktemp("seeds"))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_mutation_is_read_or_refused(target: Target, root: Path) -> None:
    target.read(root)  # the seed itself is valid
    count = max(1, round(COUNT * target.share))
    outcome = run_target(target, root, range(count))
    commands = [target.command(numbers[0]) for numbers in outcome.faults.values()]
    assert not outcome.faults, f"{outcome.faults}\n" + "\n".join(commands)
    assert outcome.num_read + outcome.num_refused == count
    assert outcome.num_refused > count // 20 or target.name.startswith(ACCEPTING)


def test_mutations_are_the_same_everywhere_and_differ_from_each_other() -> None:
    data, target = bytes(range(256)) * 4, next(target for target in TARGETS if not target.structural)
    assert target.mutated(data, 7) == target.mutated(data, 7)
    assert len({target.mutated(data, number) for number in range(100)}) > 90
    assert mutate(b"", random.Random(1)) is not None


def crash(_: Path) -> None:
    os.abort()


def grow(_: Path) -> None:
    bytearray(300 << 20)[::4096] = b"x" * (300 << 8)


def wait(_: Path) -> None:
    time.sleep(60)


def loop(_: Path) -> None:
    while True:
        pass


def fail(_: Path) -> None:
    raise KeyError("x")


@pytest.mark.parametrize(
    ("read", "fault"),
    [(crash, "status -6"), (grow, "takes more than 200 MiB"), (fail, "KeyError: 'x' at test_fuzz.py")],
)
def test_faults_of_a_reader_are_noticed(read: Callable[[Path], Any], fault: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    outcome = run_target(Target("faulty", "file", read), tmp_path, range(3))
    ((noticed, numbers),) = outcome.faults.items()
    assert fault in noticed and numbers == [0, 1, 2]


@pytest.mark.parametrize(("read", "fault"), [(loop, "TimeoutError: not read in time"), (wait, "does not end within")])
def test_a_reader_that_does_not_end_is_noticed(read: Callable[[Path], Any], fault: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    outcome = run_target(Target("hanging", "file", read, limit_s=0.2), tmp_path, range(1))
    ((noticed, _),) = outcome.faults.items()
    assert noticed.startswith(fault)
