"""A link between jobs: texts and tensors cross it, and it does not outlive one of its processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.processes import free_port

pytestmark = pytest.mark.distributed


def play(size: int, what: str) -> list[subprocess.CompletedProcess[str]]:
    """The ends of a link, each a process and a job of its own."""
    port = free_port()
    commands = [
        [sys.executable, "-m", "tests.unit.parallel.weight_group_jobs", *map(str, (port, rank, size, what))]
        for rank in range(size)
    ]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for command in commands
    ]
    ended = [(process, *process.communicate(timeout=240)) for process in started]
    return [subprocess.CompletedProcess(process.args, process.returncode, *said) for process, *said in ended]


def test_texts_and_tensors_reach_processes_of_other_jobs_over_links_of_both_makes() -> None:
    ends = play(3, "all live")
    assert [end.returncode for end in ends] == [0, 0, 0], "\n".join(end.stderr for end in ends)
    assert {end.stdout for end in ends} == {3 * "['', 'größer', ''] [0.0, 2.0, 4.0, 6.0, 8.0]\n"}


def test_a_process_that_dies_lets_the_others_fail() -> None:
    alive, dead = play(2, "one dies")
    assert (alive.returncode != 0, dead.returncode) == (True, 0)
    assert "RuntimeError" in alive.stderr or "DistBackendError" in alive.stderr, alive.stderr
