"""Runs that are interrupted and resumed, and what must be equal afterwards."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from mindspeed_dpo.weights import open_weights
from tests.support.closeness import is_of_the_clock
from tests.support.commands import Finished, Running
from tests.support.metrics import read_metrics
from tests.support.runs import ACTOR

TRACKER = "latest_checkpointed_iteration.txt"
Interrupt = Callable[[Running], None]


@dataclass(frozen=True)
class Interrupted:
    """A run that did not reach its end.

    Attributes:
        finished: How the command ended.
        left_behind: Processes that outlived it.
        steps: Of each line of metrics.jsonl at the end.
        saved: Iteration of the newest checkpoint at the end.
    """

    finished: Finished
    left_behind: list[str]
    steps: list[int]
    saved: int


def interrupt_run(
    arguments: Sequence[str], output_dir: Path, interrupt: Interrupt, after: Callable[[], bool]
) -> Interrupted:
    """Start a run and strike as soon as `after` holds."""
    with Running(arguments) as run:
        run.until(after, "the moment to strike")
        interrupt(run)
        finished = run.finish()
        left_behind = run.left_behind()
    steps = [int(record["step"]) for record in read_metrics(output_dir / "metrics.jsonl")]
    return Interrupted(finished, left_behind, steps, saved_iteration(output_dir))


def resume(arguments: Sequence[str], output_dir: Path) -> list[str]:
    """The same run, resumed in its own folder, which need not be named again."""
    remaining = [argument for argument in arguments if not argument.startswith("training.output_dir=")]
    return [*remaining, f"{ACTOR}.resume_from={output_dir}"]


def kill_worker(rank: int) -> Interrupt:
    """SIGKILL of one worker process."""
    return lambda run: run.writing(f"actor_rollout_{rank}.log").kill()


def kill_gcs_server(run: Running) -> None:
    """SIGKILL of the server of the Ray that the run has started."""
    next(process for process in run.family() if process.name() == "gcs_server").kill()


def kill_all(run: Running) -> None:
    """SIGKILL of everything at once, as when the power fails."""
    for process in run.family():
        with suppress(psutil.NoSuchProcess):
            process.kill()
    run.signal(signal.SIGKILL)


def request_stop(run: Running) -> None:
    """SIGTERM of the command itself."""
    run.signal(signal.SIGTERM)


def num_steps(output_dir: Path) -> int:
    """Lines of metrics.jsonl so far."""
    path = output_dir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def saved_iteration(output_dir: Path) -> int:
    """Iteration of the newest checkpoint, 0 where there is none."""
    tracker = output_dir / "checkpoints" / TRACKER
    return int(tracker.read_text()) if tracker.is_file() else 0


def numbers(output_dir: Path) -> list[dict[str, float]]:
    """What a run measured, without what depends on the clock."""
    records = read_metrics(output_dir / "metrics.jsonl")
    return [{k: v for k, v in record.items() if not is_of_the_clock(k)} for record in records]


def different_weights(one: Path, other: Path) -> list[str]:
    """Names of tensors that two runs' newest checkpoints do not share bit by bit."""
    first, second = (dict(_tensors(folder / "checkpoints")) for folder in (one, other))
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


def _tensors(checkpoints: Path) -> dict[str, torch.Tensor]:
    source = open_weights(checkpoints)
    return dict(source.hf_tensors(source.model_config()))
