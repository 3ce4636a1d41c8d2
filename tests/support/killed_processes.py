"""What can be killed of a run, and what the command must then print and return."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.commands import Finished, Running, open_files, until
from tests.support.metrics import num_steps

Interrupt = Callable[[Running, Path], None]
"""Takes the running command and its output folder."""
REPORT = r" died|SIG(KILL|TERM)"
"""A line that says what ended."""
STEP_S = 60.0
SANDBOX = "sandbox_child"
"""Part of the command line of the process of reward functions."""


@dataclass(frozen=True)
class Victim:
    """A part of a run that is interrupted, and what must come of it.

    Attributes:
        interrupt: Ends it.
        code: Exit code of the command.
        report: Pattern of the one line that reports its end; empty where nothing is left that could.
        leaves_folder: Whether nothing is left that could remove Ray's folder.
    """

    interrupt: Interrupt
    code: int
    report: str = ""
    leaves_folder: bool = False

    def problem(self, finished: Finished, left_behind: list[str], folders: list[str]) -> str:
        """What is not as it must be, with what the command printed; empty if nothing is."""
        text = finished.text
        reports = [line for line in text.splitlines() if re.search(REPORT, line)]
        problems = {
            f"exit code {finished.code} and not {self.code}": finished.code != self.code,
            f"still running: {left_behind}": bool(left_behind),
            f"folders of Ray: {folders}": bool(folders) and not self.leaves_folder,
            "a traceback": "Traceback" in text,
            "a log of Ray": "state-dump" in text,
            f"not one report like {self.report}: {reports}": bool(self.report)
            and (len(reports) != 1 or not re.search(self.report, reports[0])),
        }
        sentences = "; ".join(problem for problem, exists in problems.items() if exists)
        return f"{sentences}\n{text[-2000:]}" if sentences else ""


def worker(log: str) -> Victim:
    """The worker that writes a log, such as `actor_rollout_1.log`."""
    pool, _, rank = log.removesuffix(".log").rpartition("_")
    report = rf"{pool} rank {rank} on .* failed in .*: the process died .*{re.escape(log)}"
    return Victim(_kill_writer(log), 1, report)


def process_of_ray(name: str) -> Victim:
    """The process of the Ray that the run has started, such as raylet."""
    return Victim(lambda run, output_dir: run.named(name).kill(), 1, rf"{name} \(process \d+\) died")


def writers(output_dir: Path, log: str = "") -> list[psutil.Process]:
    """Processes on this machine that write logs of a run whose names begin so, started by any process."""
    logs = str(output_dir / "logs" / log)
    return [process for process in psutil.process_iter() if any(path.startswith(logs) for path in open_files(process))]


def _kill_writer(log: str) -> Interrupt:
    """SIGKILL of the worker that writes a log, such as `actor_rollout_1.log`."""

    def kill(run: Running, output_dir: Path) -> None:
        (process,) = writers(output_dir, log)
        process.kill()

    return kill


def _kill_driver(run: Running, output_dir: Path) -> None:
    """SIGKILL of the child of the command."""
    psutil.Process(run.pid).children()[0].kill()


def _kill_supervisor(run: Running, output_dir: Path) -> None:
    """SIGKILL of the command itself."""
    run.signal(signal.SIGKILL)


def _kill_supervisor_and_driver(run: Running, output_dir: Path) -> None:
    """SIGKILL of both before one can react to the end of the other."""
    driver = psutil.Process(run.pid).children()[0]
    driver.suspend()
    run.signal(signal.SIGKILL)
    driver.kill()


def kill_everything(run: Running, output_dir: Path) -> None:
    """SIGKILL of everything at once, as when the power fails."""
    for process in run.family():
        with suppress(psutil.NoSuchProcess):
            process.kill()
    run.signal(signal.SIGKILL)


def _request_stop(run: Running, output_dir: Path) -> None:
    """SIGTERM of the command itself."""
    run.signal(signal.SIGTERM)


def _kill_reward_functions(run: Running, output_dir: Path) -> None:
    """SIGKILL of the process of reward functions; the run must go on, and then everything is killed."""
    next(process for process in run.family() if SANDBOX in " ".join(process.cmdline())).kill()
    before = num_steps(output_dir)
    until(lambda: run.has_ended or num_steps(output_dir) > before, "another step", STEP_S)
    if not run.has_ended:
        kill_everything(run, output_dir)


DRIVER = Victim(_kill_driver, 1, r"the driver \(process \d+\) died of SIGKILL")
SUPERVISOR = Victim(_kill_supervisor, -signal.SIGKILL)
SUPERVISOR_AND_DRIVER = Victim(_kill_supervisor_and_driver, -signal.SIGKILL, leaves_folder=True)
EVERYTHING = Victim(kill_everything, -signal.SIGKILL, leaves_folder=True)
STOP = Victim(_request_stop, 130, "SIGTERM: finishing this step and saving")
"""Nothing is killed: a signal requests a stop."""
REWARD_FUNCTIONS = Victim(_kill_reward_functions, -signal.SIGKILL, leaves_folder=True)
"""The run outlives the end of this process, and is killed afterwards."""
