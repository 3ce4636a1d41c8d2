"""A series of kills in one folder, which goes on where it stopped."""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from mindspeed_dpo.observability.metrics_jsonl import METRICS_FILE
from tests.chaos.configurations import SAVE_INTERVAL, STEPS, Configuration, make_configurations
from tests.support.commands import Finished, Running
from tests.support.killed_processes import (
    DRIVER,
    EVERYTHING,
    REWARD_FUNCTIONS,
    SUPERVISOR,
    SUPERVISOR_AND_DRIVER,
    Victim,
    process_of_ray,
    worker,
)
from tests.support.metrics import num_steps
from tests.support.resuming import (
    LEFT_BEHIND_S,
    different_tensors,
    numbers,
    resume,
    saved_iteration,
)

LONGEST_START_S = 12.0
"""Longest time after the start of a command at which it is killed, for kills that do not wait for a step."""
SHARE_OF_EARLY_KILLS, SHARE_OF_KILLS_IN_SAVES = 0.2, 0.3
END_S = 60.0
COMPLETED = "none"
VICTIMS = {
    "driver": DRIVER,
    "supervisor": SUPERVISOR,
    "supervisor and driver": SUPERVISOR_AND_DRIVER,
    "gcs_server": process_of_ray("gcs_server"),
    "raylet": process_of_ray("raylet"),
    "everything": EVERYTHING,
}
REWARD_PROCESS = "reward process"
NOTHING = Victim(lambda run, output_dir: None, 0)


@dataclass(frozen=True)
class Kill:
    """One command and what came of it.

    Attributes:
        configuration: Name of the configuration.
        victim: What was killed, or `COMPLETED` if the run reached its end before.
        moment: When, in words.
        code: Exit code of the command; None if it did not end in time.
        end_s: Seconds from the kill to the end of the command.
        saved: Iteration of the newest checkpoint afterwards.
        compared: Whether the run was complete and so compared with the uninterrupted one.
        problem: Empty if all was as promised.
    """

    configuration: str
    victim: str
    moment: str
    code: int | None = None
    end_s: float = 0.0
    saved: int = 0
    compared: bool = False
    problem: str = ""


class Series:
    """Kills of several configurations in turn, at random."""

    def __init__(self, folder: Path, seed: int) -> None:
        """Go on with what the folder has."""
        self._seed, self._file = seed, folder.resolve() / "kills.json"
        self._configurations = make_configurations(folder.resolve())
        self.commands: list[Kill] = []
        if self._file.is_file():
            self.commands = [Kill(**one) for one in json.loads(self._file.read_text(encoding="utf-8"))]

    @property
    def num_kills(self) -> int:
        """How many processes have been killed."""
        return sum(one.victim != COMPLETED for one in self.commands)

    def kill_once(self) -> Kill:
        """Start or resume a random run and kill something at a random moment."""
        chance = random.Random(f"{self._seed} {len(self.commands)}")
        name = chance.choice(sorted(self._configurations))
        configuration = self._configurations[name]
        configuration.make_uninterrupted_run()
        victims = _victims(configuration)
        victim = chance.choice(sorted(victims))
        moment, is_due = _moment(chance, configuration.killed)
        return self._record(_strike(Kill(name, victim, moment), configuration, is_due))

    def unfinished(self) -> list[str]:
        """Configurations whose killed run is not complete and so not compared yet."""
        return [name for name, one in self._configurations.items() if one.killed.is_dir()]

    def complete(self, name: str) -> Kill:
        """Resume the killed run of a configuration, let it reach its end, and compare it."""
        return self._record(_strike(Kill(name, COMPLETED, "never"), self._configurations[name], lambda: False))

    def _record(self, kill: Kill) -> Kill:
        self.commands.append(kill)
        self._file.write_text(json.dumps([asdict(one) for one in self.commands], indent=1), encoding="utf-8")
        return kill


def _victims(configuration: Configuration) -> dict[str, Victim]:
    victims = {**VICTIMS, **{f"worker {log.removesuffix('.log')}": worker(log) for log in configuration.logs}}
    return {**victims, REWARD_PROCESS: REWARD_FUNCTIONS} if configuration.is_online else victims


def _moment(chance: random.Random, output_dir: Path) -> tuple[str, Callable[[], bool]]:
    """Description and condition of a moment: some time after the start, some steps later, or in a save."""
    if chance.random() < SHARE_OF_EARLY_KILLS:
        delay_s = chance.uniform(0, LONGEST_START_S)
        end_s = time.monotonic() + delay_s
        return f"{delay_s:.1f} s after the start", lambda: time.monotonic() >= end_s
    saved, metrics = saved_iteration(output_dir), output_dir / METRICS_FILE
    begin_ns = time.time_ns()
    num_more, is_in_save = chance.randint(1, 2 * SAVE_INTERVAL), chance.random() < SHARE_OF_KILLS_IN_SAVES
    delay_s, pause = chance.uniform(0, 0.3), threading.Event()

    def is_due() -> bool:
        # A run that is resumed begins with cutting off the steps after the checkpoint, which are not its own.
        is_its_own = metrics.is_file() and metrics.stat().st_mtime_ns > begin_ns
        if not is_its_own or num_steps(output_dir) < saved + num_more:
            return False
        return any((output_dir / "checkpoints").glob("*.partial")) if is_in_save else not pause.wait(delay_s)

    return f"{num_more} steps after a checkpoint{', in a save' if is_in_save else ''}", is_due


def _strike(kill: Kill, configuration: Configuration, is_due: Callable[[], bool]) -> Kill:
    """Start or resume a run, apply a kill, and return it with what came of it."""
    with Running(_arguments(configuration)) as run:
        name = COMPLETED if _wait(run, is_due) else kill.victim
        begin_s = time.monotonic()
        try:
            if name != COMPLETED:
                name = _apply(name, configuration, run)
            finished = run.finish(END_S)
        except AssertionError as error:
            return replace(kill, victim=name, problem=str(error))
        end_s = time.monotonic() - begin_s
        left_behind, folders = run.left_behind(LEFT_BEHIND_S), run.ray_folders()
    kill = replace(kill, victim=name, code=finished.code, end_s=round(end_s, 1))
    return _checked(kill, configuration, finished, left_behind, folders)


def _checked(
    kill: Kill, configuration: Configuration, finished: Finished, left_behind: list[str], folders: list[str]
) -> Kill:
    """Note what is not as promised, compare a complete run, and let the next one begin at step 0."""
    victim, saved = {**_victims(configuration), COMPLETED: NOTHING}[kill.victim], saved_iteration(configuration.killed)
    is_complete = saved == STEPS
    # After the last checkpoint results stand whatever is killed.
    expected = NOTHING if is_complete and finished.code == 0 else victim
    problem = expected.problem(finished, left_behind, folders)
    if is_complete:
        problem = problem or _difference(configuration)
    # Prompts whose scoring failed are counted, so such a run has other numbers.
    if is_complete or victim is REWARD_FUNCTIONS:
        shutil.rmtree(configuration.killed, ignore_errors=True)
    return replace(kill, saved=saved, compared=is_complete, problem=problem)


def _arguments(configuration: Configuration) -> list[str]:
    output_dir = configuration.killed
    first = [*configuration.command, f"training.output_dir={output_dir}"]
    if saved_iteration(output_dir):
        return resume(first, output_dir)
    # A run without a checkpoint begins at step 0.
    shutil.rmtree(output_dir, ignore_errors=True)
    return first


def _wait(run: Running, is_due: Callable[[], bool]) -> bool:
    """Wait for the moment; return whether the run has ended before."""
    pause = threading.Event()
    while not run.has_ended:
        if is_due():
            return run.has_ended
        pause.wait(0.02)
    return True


def _apply(name: str, configuration: Configuration, run: Running) -> str:
    """Kill, and return what was killed: everything if the victim does not exist yet."""
    run.family()
    try:
        _victims(configuration)[name].interrupt(run, configuration.killed)
    except (StopIteration, IndexError, ValueError, psutil.NoSuchProcess):
        EVERYTHING.interrupt(run, configuration.killed)
        return "everything"
    return name


def _difference(configuration: Configuration) -> str:
    """Compare metrics and tensors of a complete run with those of the uninterrupted one, bit by bit."""
    same = numbers(configuration.killed) == numbers(configuration.alone)
    different = different_tensors(configuration.killed, configuration.alone)
    return "" if same and not different else f"metrics equal: {same}; different tensors: {different}"
