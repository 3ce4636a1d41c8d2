"""The supervisor of a command: however the work ends, it is reported in one sentence and nothing is left of it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.process_signals import ends, restore_sigint

COMMAND = Path(__file__).with_name("supervised_command.py")
ROOT = Path(__file__).resolve().parents[3]
END_S = 120.0


class Command:
    """A supervised command that has printed its process ids."""

    def __init__(self, process: subprocess.Popen[str], driver: int, others: list[int]) -> None:
        self.process, self.driver, self.others = process, driver, others

    def finish(self) -> tuple[int, list[str]]:
        """Exit code and lines of standard error; nothing that was started still runs."""
        _, stderr = self.process.communicate(timeout=END_S)
        assert all(ends(pid, END_S) for pid in (self.driver, *self.others))
        return self.process.returncode, stderr.splitlines()


@contextmanager
def started(case: str) -> Iterator[Command]:
    with subprocess.Popen(
        [sys.executable, str(COMMAND), case],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=restore_sigint,
    ) as process:
        try:
            assert process.stdout is not None
            driver, *others = map(int, process.stdout.readline().split())
            yield Command(process, driver, others)
        finally:
            process.kill()


def test_what_lost_its_parent_and_left_its_session_ends_with_the_command() -> None:
    with started("orphan") as command:
        assert len(command.others) == 1
        assert command.finish() == (0, [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_work(number: int) -> None:
    with started("waiting") as command:
        command.process.send_signal(number)
        assert command.finish() == (130, ["interrupted"])


def test_ctrl_z_suspends_the_command_and_not_the_run() -> None:
    with started("waiting") as command:
        command.process.send_signal(signal.SIGTSTP)
        _, status = os.waitpid(command.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert "State:\tT" not in Path(f"/proc/{command.driver}/status").read_text()
        command.process.send_signal(signal.SIGCONT)
        command.process.send_signal(signal.SIGTERM)
        code, lines = command.finish()
        assert code == 130 and lines[0].startswith("suspended: the command only") and lines[1:] == ["interrupted"]


def test_a_terminal_that_stops_background_output_does_not_stop_the_run() -> None:
    ours, theirs = os.openpty()
    flags = termios.tcgetattr(theirs)
    flags[3] |= termios.TOSTOP
    termios.tcsetattr(theirs, termios.TCSANOW, flags)

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(2, termios.TIOCSCTTY, 0)

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, str(COMMAND), "speaking"]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=theirs, env=environment, preexec_fn=own_terminal
    ) as process:
        try:
            assert process.wait(END_S) == 0 and b"a line" in os.read(ours, 1000)
        finally:
            process.kill()
            os.close(ours)
            os.close(theirs)


def test_work_that_handles_no_signal_is_ended() -> None:
    with started("deaf") as command:
        command.process.send_signal(signal.SIGTERM)
        code, lines = command.finish()
        assert code == 130 and len(lines) == 1 and lines[0].startswith("interrupted: the run was ended at once")


def test_a_second_signal_ends_the_work_at_once() -> None:
    with started("patient") as command:
        for _ in range(2):
            command.process.send_signal(signal.SIGINT)
            # Two signals of one kind that are pending at the same time are one.
            while os.stat(f"/proc/{command.process.pid}") and _is_pending(command.process.pid, signal.SIGINT):
                pass
        assert command.finish()[0] == 130


def _is_pending(pid: int, number: int) -> bool:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(fields.get("ShdPnd", "0"), 16) >> (number - 1) & 1)


def test_work_that_finishes_a_step_after_a_signal_has_its_time() -> None:
    with started("graceful") as command:
        command.process.send_signal(signal.SIGTERM)
        assert command.finish() == (130, [])


@pytest.mark.parametrize(
    ("case", "name"), [("reporting", "gcs_server"), ("aborting", "raylet"), ("blocked", "gcs_server")]
)
def test_the_end_of_a_process_that_is_needed_is_reported_once(case: str, name: str) -> None:
    with started(case) as command:
        os.kill(command.others[0], signal.SIGKILL)
        code, lines = command.finish()
        sentence = f"{name} (process {command.others[0]}) died: killed by a signal, out of memory, or crashed"
        assert code == 1
        assert lines == [f"{'seen' if case == 'reporting' else 'error'}: {sentence}"]


def test_results_that_are_complete_stand() -> None:
    with started("complete") as command:
        os.kill(command.others[0], signal.SIGKILL)
        assert command.finish() == (0, [])


def test_a_step_beyond_its_limit_is_reported() -> None:
    with started("slow") as command:
        assert command.finish() == (1, ["error: Ray did not start within 0.3 s"])


@pytest.mark.parametrize("case", ["waiting", "fated"])
def test_the_death_of_the_driver_is_reported(case: str) -> None:
    with started(case) as command:
        os.kill(command.driver, signal.SIGKILL)
        code, lines = command.finish()
        assert code == 1 and len(lines) == 1
        assert lines[0].startswith(
            f"error: the driver (process {command.driver}) died of SIGKILL: the system may be out"
        )


@pytest.mark.parametrize("case", ["waiting", "deaf"])
def test_nothing_outlives_a_supervisor_that_is_killed(case: str) -> None:
    with started(case) as command:
        command.process.kill()
        assert command.finish()[0] == -signal.SIGKILL


def test_a_driver_that_has_lost_its_supervisor_removes_folders_before_it_ends_well() -> None:
    with started("outliving") as command:
        code, lines = command.finish()
        assert code == -signal.SIGKILL and len(lines) == 1
        assert not Path(lines[0]).exists()
