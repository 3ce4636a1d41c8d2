"""Runs that are interrupted and resumed, and what must be equal afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from mindspeed_dpo.weights.dist_source import DistSource
from tests.support.closeness import is_of_the_clock
from tests.support.commands import LOOK_S, Finished, Running, until
from tests.support.killed_processes import Interrupt, writers
from tests.support.metrics import read_metrics
from tests.support.runs import ACTOR

TRACKER = "latest_checkpointed_iteration.txt"
LEFT_BEHIND_S = 90.0
"""Some of Ray's agents end by themselves only."""


@dataclass(frozen=True)
class Interrupted:
    """A run that did not reach its end.

    Attributes:
        finished: How the command ended.
        left_behind: Processes that outlived it.
        folders: Ray's folders that it left.
        steps: Of each line of metrics.jsonl at the end.
        saved: Iteration of the newest checkpoint at the end.
        partial: Names of half-written checkpoints when it was interrupted.
    """

    finished: Finished
    left_behind: list[str]
    folders: list[str]
    steps: list[int]
    saved: int
    partial: list[str]


def interrupt_run(
    arguments: Sequence[str],
    output_dir: Path,
    interrupt: Interrupt,
    after: Callable[[Running], bool],
    look_s: float = LOOK_S,
) -> Interrupted:
    """Start a run and interrupt it as soon as `after` holds, which is looked at in intervals of `look_s`."""
    with Running(arguments) as run:
        run.until(lambda: after(run), "the moment of the interruption", look_s)
        run.family()
        partial = [path.name for path in (output_dir / "checkpoints").glob("iter_*.partial")]
        interrupt(run, output_dir)
        finished = run.finish()
        left_behind, folders = run.left_behind(LEFT_BEHIND_S), run.ray_folders()
    # On a running cluster the workers are no descendants of the command.
    until(lambda: not writers(output_dir), "the end of all workers of the run")
    metrics = output_dir / "metrics.jsonl"
    steps = [int(record["step"]) for record in read_metrics(metrics)] if metrics.is_file() else []
    return Interrupted(finished, left_behind, folders, steps, saved_iteration(output_dir), partial)


class SaveMoment:
    """The moment at which a run writes a checkpoint, held by suspending its workers until it has been interrupted."""

    def __init__(self, output_dir: Path) -> None:
        self._output_dir = output_dir
        self._workers: list[psutil.Process] = []

    def is_reached(self) -> bool:
        """Whether a checkpoint is being written; if so, its writers are suspended."""
        if not self._workers:
            self._workers = writers(self._output_dir)
        if not self._is_writing():
            return False
        for process in self._workers:
            process.suspend()
        if self._is_writing():
            return True
        self._resume()
        return False

    def interrupted_by(self, interrupt: Interrupt) -> Interrupt:
        """The interrupt, after which the workers go on if they still exist."""

        def interrupt_and_resume(run: Running, output_dir: Path) -> None:
            interrupt(run, output_dir)
            self._resume()

        return interrupt_and_resume

    def _is_writing(self) -> bool:
        return any((self._output_dir / "checkpoints").glob("iter_*.partial"))

    def _resume(self) -> None:
        for process in self._workers:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def resume(arguments: Sequence[str], output_dir: Path) -> list[str]:
    """The same run, resumed in its own folder, which need not be named again."""
    remaining = [argument for argument in arguments if not argument.startswith("training.output_dir=")]
    return [*remaining, f"{ACTOR}.resume_from={output_dir}"]


def saved_iteration(output_dir: Path) -> int:
    """Iteration of the newest checkpoint, 0 where there is none."""
    tracker = output_dir / "checkpoints" / TRACKER
    return int(tracker.read_text()) if tracker.is_file() else 0


def numbers(output_dir: Path) -> list[dict[str, float]]:
    """What a run measured, without what depends on the clock."""
    records = read_metrics(output_dir / "metrics.jsonl")
    return [{k: v for k, v in record.items() if not is_of_the_clock(k)} for record in records]


def different_tensors(one: Path, other: Path) -> list[str]:
    """Names of weights and optimizer states that two runs' newest checkpoints do not share bit by bit."""
    first, second = map(_newest_checkpoint, (one, other))
    shared = set(first.keys()) & set(second.keys())
    different = [key for key in shared if not torch.equal(first.read_tensor(key), second.read_tensor(key))]
    return sorted({*different, *(set(first.keys()) ^ set(second.keys()))})


def _newest_checkpoint(output_dir: Path) -> DistSource:
    checkpoints = output_dir / "checkpoints"
    return DistSource(checkpoints, checkpoints / f"iter_{saved_iteration(output_dir):07d}")
