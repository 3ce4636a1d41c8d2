"""Kills random processes of runs at random moments, resumes them, and compares the results with uninterrupted runs.

python -m tests.chaos [--kills 100] [--seed 1] [--folder outputs/chaos] [--minutes 60]

The folder holds inputs, uninterrupted runs and the list of kills, so that an interrupted series goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.support.commands import Running, open_files, succeed, training
from tests.support.conversions import preprocessing
from tests.support.online import OnlineInputs, online_inputs
from tests.support.resuming import different_weights, kill_all, num_steps, numbers, resume, saved_iteration
from tests.support.runs import Layout, online_overrides

STEPS, SAVE_INTERVAL = 40, 5
START_S = 12.0
"""Longest time after the start of a command at which it is killed, for kills that do not wait for a step."""
SHARE_OF_EARLY_KILLS = 0.2
SHARE_OF_KILLS_IN_SAVES = 0.3
RULE = "examples.tiny.rewards.vowels"
OFFLINE: dict[str, tuple[Layout, dict[str, Any]]] = {
    "dp2 async": ((1, 1, 2), {"use_distributed_optimizer": True, "async_save": True}),
    "tp2": ((2, 1, 1), {}),
    "pp2": ((1, 2, 1), {}),
    "lora": ((1, 1, 1), {"lora_target_modules": ["all-linear"], "lora_r": 8, "lora_dropout": 0.05}),
}
ONLINE = "online stale"


@dataclass(frozen=True)
class Kill:
    """One kill and what came of it; `problem` is empty where all was as promised."""

    configuration: str
    victim: str
    moment: str
    code: int
    step: int
    problem: str


def gcs_server(run: Running) -> None:
    """Kill Ray's server."""
    _named(run, "gcs_server").kill()


def raylet(run: Running) -> None:
    """Kill Ray's process of the node."""
    _named(run, "raylet").kill()


def driver(run: Running) -> None:
    """Kill the child of the command."""
    psutil.Process(run.pid).children()[0].kill()


def supervisor(run: Running) -> None:
    """Kill the command itself."""
    psutil.Process(run.pid).kill()


def worker(run: Running) -> None:
    """Kill one of the worker processes; which one depends on their ids."""
    writing = {one: [path for path in open_files(one) if "/logs/" in path] for one in run.family()}
    workers = [one for one, paths in writing.items() if any("driver" not in path for path in paths)]
    workers[0].kill()


# Exit codes: after the last step the results stand, so a run may also end well.
VICTIMS: dict[str, tuple[Callable[[Running], None], set[int]]] = {
    "worker": (worker, {0, 1}),
    "driver": (driver, {0, 1}),
    "supervisor": (supervisor, {-9}),
    "gcs_server": (gcs_server, {0, 1}),
    "raylet": (raylet, {0, 1}),
    "everything": (kill_all, {-9}),
}


def _named(run: Running, name: str) -> psutil.Process:
    return next(process for process in run.family() if process.name() == name)


class Series:
    """A series of kills in one folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        """Go on with what the folder has."""
        self.folder, self._seed = folder.resolve(), seed
        self._file = self.folder / "kills.json"
        self.kills: list[Kill] = []
        if self._file.is_file():
            self.kills = [Kill(**one) for one in json.loads(self._file.read_text(encoding="utf-8"))]
        self._commands = self._prepare()

    def kill_once(self) -> Kill:
        """Start or resume a run, kill it at a random moment, and record what happened; compare a run that is done."""
        chance = random.Random(f"{self._seed} {len(self.kills)}")
        name, victim = chance.choice(sorted(self._commands)), chance.choice(sorted(VICTIMS))
        target = self._folder_of(name) / "killed"
        moment, is_due = self._moment(chance, target)
        with Running(self._arguments(name, target)) as run:
            run_is_over = _wait(run, is_due)
            if not run_is_over:
                run.family()
                _apply(VICTIMS[victim][0], run)
            finished = run.finish(60)
            left = run.left_behind()
        problem = self._problem(victim, finished.code, finished.told, left, run_is_over)
        problem = problem or self._difference(name, target)
        kill = Kill(name, "none" if run_is_over else victim, moment, finished.code, num_steps(target), problem)
        self.kills.append(kill)
        self._file.write_text(json.dumps([asdict(one) for one in self.kills], indent=1), encoding="utf-8")
        return kill

    def _prepare(self) -> dict[str, list[str]]:
        """Create inputs and uninterrupted runs where they are missing, and return the command of each configuration."""
        inputs, pairs = self.folder / "inputs", self.folder / "inputs" / "tokens" / "pairs"
        if not (inputs / "done").is_file():
            shutil.rmtree(inputs, ignore_errors=True)
            (inputs / "online").mkdir(parents=True)
            succeed("examples/tiny/make_preferences.py", inputs / "pairs.jsonl")
            succeed("examples/tiny/make_model.py", inputs / "hf")
            succeed("preprocess_data.py", *preprocessing(inputs / "pairs.jsonl", inputs / "hf", pairs))
            online_inputs(inputs / "online")
            (inputs / "done").touch()
        shared = {"train_iters": STEPS, "save_interval": SAVE_INTERVAL, "tensorboard": False}
        keys = {
            **shared, "tokenizer_name_or_path": inputs / "hf", "load": inputs / "hf", "data_path": pairs,
            "reference_cache_dir": inputs / "cache", "lr_decay_iters": STEPS, "eval_interval": 10,
        }  # fmt: skip
        commands = {name: training(layout, **{**keys, **more}) for name, (layout, more) in OFFLINE.items()}
        of_prompts = OnlineInputs(inputs / "online" / "hf", inputs / "online" / "tokens" / "prompts")
        of_online = {
            **of_prompts.keys, **shared, "global_batch_size": 4, "micro_batch_size": 2,
            "n_samples_per_prompt": 3, "reward_functions": [RULE], "rollout_staleness": 1, "num_gpus_for_infer": 1,
            "async_save": True,
        }  # fmt: skip
        name = ["ray_gpt.py", "--config-name", "online_dpo_trainer_tiny"]
        commands[ONLINE] = [*name, *online_overrides((1, 1, 1), **of_online)]
        for name, command in commands.items():
            alone = self._folder_of(name) / "alone"
            if saved_iteration(alone) < STEPS:
                shutil.rmtree(alone, ignore_errors=True)
                succeed(*command, f"training.output_dir={alone}")
        return commands

    def _folder_of(self, name: str) -> Path:
        return self.folder / name.replace(" ", "_")

    def _arguments(self, name: str, target: Path) -> Sequence[str]:
        first = [*self._commands[name], f"training.output_dir={target}"]
        if saved_iteration(target):
            return resume(first, target)
        # A run without a checkpoint begins anew.
        shutil.rmtree(target, ignore_errors=True)
        return first

    def _moment(self, chance: random.Random, target: Path) -> tuple[str, Callable[[], bool]]:
        """Description and condition of a moment: some time after the start, some steps later, or in a save."""
        if chance.random() < SHARE_OF_EARLY_KILLS:
            delay_s = chance.uniform(0, START_S)
            end_s = time.monotonic() + delay_s
            return f"{delay_s:.1f} s after the start", lambda: time.monotonic() >= end_s
        saved = saved_iteration(target)
        num_more = chance.randint(1, 2 * SAVE_INTERVAL)
        is_in_save = chance.random() < SHARE_OF_KILLS_IN_SAVES
        delay_s = chance.uniform(0, 0.3)
        pause = threading.Event()

        def is_due() -> bool:
            if num_steps(target) < saved + num_more:
                return False
            return any((target / "checkpoints").glob("*.partial")) if is_in_save else not pause.wait(delay_s)

        return f"{num_more} steps after a checkpoint{', in a save' if is_in_save else ''}", is_due

    def _problem(self, victim: str, code: int, output: str, left: list[str], run_is_over: bool) -> str:
        expected = {0} if run_is_over else VICTIMS[victim][1]
        if code not in expected:
            return f"exit code {code}: {output[-500:]}"
        if left:
            return f"left behind: {left}"
        return f"traceback: {output[-1000:]}" if "Traceback" in output else ""

    def _difference(self, name: str, target: Path) -> str:
        """Compare a run that has reached its end, and let the next one begin anew."""
        if saved_iteration(target) < STEPS:
            return ""
        alone = self._folder_of(name) / "alone"
        same = numbers(target) == numbers(alone)
        different = different_weights(target, alone)
        shutil.rmtree(target)
        return "" if same and not different else f"metrics equal: {same}; different tensors: {different}"


def _wait(run: Running, is_due: Callable[[], bool]) -> bool:
    """Wait for the moment; return whether the run has ended before."""
    pause = threading.Event()
    while not run.has_ended:
        if is_due():
            return run.has_ended
        pause.wait(0.02)
    return True


def _apply(kill: Callable[[Running], None], run: Running) -> None:
    """Kill; a process that does not exist yet leaves the command itself as victim."""
    try:
        kill(run)
    except (StopIteration, IndexError, psutil.NoSuchProcess):
        kill_all(run)


def main() -> int:
    """Run the series and print each kill; the exit code is 1 if something was not as promised."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="number of kills of the whole series")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end after this time")
    parser.add_argument("--seed", type=int, default=1, help="seed of victims, moments and configurations")
    parser.add_argument("--folder", type=Path, default=Path("outputs/chaos"), help="folder of the series")
    options = parser.parse_args()
    end_s = time.monotonic() + 60 * options.minutes
    sys.stdout.write(f"seed {options.seed}, folder {options.folder}\n")
    series = Series(options.folder, options.seed)
    while len(series.kills) < options.kills and time.monotonic() < end_s:
        start_s = time.monotonic()
        kill = series.kill_once()
        seconds = time.monotonic() - start_s
        sys.stdout.write(f"{len(series.kills)}: {kill} in {seconds:.0f} s\n")
        sys.stdout.flush()
    problems = [kill for kill in series.kills if kill.problem]
    sys.stdout.write(f"{len(series.kills)} kills, {len(problems)} with a problem\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
