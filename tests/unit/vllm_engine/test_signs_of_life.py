"""A process that hangs is distinguished from one that computes for long."""

from __future__ import annotations

import pytest

from mindspeed_dpo.processes.descendants import ProcessState
from mindspeed_dpo.vllm_engine.signs_of_life import SignsOfLife

PID, CHILD = 4711, 4712
PROGRESS_S, SILENCE_S, STEP_S = 300.0, 15.0, 0.5
FOUND_S = SILENCE_S + 2 * 2.0
"""The latest moment at which a process that stops at once is found: the silence, and two looks at it."""


class Watched:
    """A process whose states are what the test says, looked at in steps of half a second."""

    def __init__(self, is_starting: bool = False) -> None:
        self.letters, self.ticks = {PID: "S", CHILD: "S"}, 0
        self.signs = SignsOfLife(PID, PROGRESS_S, SILENCE_S, is_starting=is_starting, look=self._states)

    def _states(self, pid: int) -> dict[int, ProcessState]:
        assert pid == PID
        return {pid: ProcessState(letter, 1, 0, self.ticks) for pid, letter in self.letters.items()}

    def found_after(self, limit_s: float, beats: bool = False, works: bool = False) -> tuple[float, str]:
        """When a problem is found, and which."""
        for step in range(1, int(limit_s / STEP_S) + 1):
            if beats:
                self.signs.beat(0)
            self.ticks += works
            if problem := self.signs.problem_after(STEP_S):
                return step * STEP_S, problem
        return limit_s, ""


@pytest.mark.parametrize("pid", [PID, CHILD])
def test_a_stopped_process_is_found_within_seconds_though_another_beats(pid: int) -> None:
    watched = Watched()
    watched.letters[pid] = "T"
    seconds, problem = watched.found_after(PROGRESS_S, beats=True, works=True)
    assert problem == f"its process {pid} is stopped, as by SIGSTOP or a debugger" and seconds <= FOUND_S


def test_a_process_that_goes_on_in_time_is_not_given_up() -> None:
    watched = Watched()
    for _ in range(20):
        watched.letters[PID] = "T"
        assert watched.found_after(SILENCE_S / 2, works=True) == (SILENCE_S / 2, "")
        watched.letters[PID] = "R"
        assert watched.found_after(2 * 2.0, works=True)[1] == ""


def test_silence_without_work_is_found_within_seconds() -> None:
    watched = Watched()
    seconds, problem = watched.found_after(PROGRESS_S)
    assert "no sign of life for 15 s and used no processor time" in problem and seconds <= FOUND_S


@pytest.mark.parametrize(("beats", "works"), [(True, False), (False, True)])
def test_a_long_prefill_or_compilation_is_not_mistaken_before_its_timeout(beats: bool, works: bool) -> None:
    """The one beats while it waits for a device, the other keeps Python's lock."""
    watched = Watched()
    watched.signs.beat(0)
    seconds, problem = watched.found_after(2 * PROGRESS_S, beats, works)
    assert problem.startswith("no progress for 300 s; if it only needs longer, raise vllm.timeout_s")
    assert seconds >= PROGRESS_S


def test_each_completed_step_is_progress() -> None:
    watched = Watched()
    for completed in range(4):
        watched.signs.beat(completed)
        assert watched.found_after(PROGRESS_S - 2.0, works=True)[1] == ""


def test_imports_before_the_first_heartbeat_may_wait_for_a_file_system() -> None:
    watched = Watched(is_starting=True)
    assert watched.found_after(PROGRESS_S - 1.0)[1] == ""
    assert "raise vllm.start_timeout_s" in watched.found_after(1.0)[1]
    watched.signs.beat(0)
    assert "used no processor time" in watched.found_after(FOUND_S)[1]


def test_time_in_which_the_watching_process_was_stopped_itself_does_not_count() -> None:
    watched = Watched()
    watched.signs.beat(0)
    assert watched.signs.problem_after(3600.0) == ""
