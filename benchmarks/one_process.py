"""A whole run in this process: trainer, worker and roles are those of `ray_gpt.py`, only Ray is left out."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from measuring import family_cpu_s
from phases import Phases

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.observability.tracker import Tracker
from mindspeed_dpo.trainers.build import offline_trainer, online_trainer
from mindspeed_dpo.trainers.offline_dpo import OfflineDPOTrainer
from mindspeed_dpo.trainers.online_dpo import OnlineDPOTrainer
from mindspeed_dpo.trainers.run_inputs import RunInputs, open_inputs
from mindspeed_dpo.workers.worker_process import WorkerProcess


class Done:
    """Answers that are there already."""

    def __init__(self, answers: list[Any]) -> None:
        self._answers = answers

    def result(self) -> list[Any]:
        return self._answers


class OneProcess:
    """A worker process of a pool of one, behind the face of a worker group.

    Attributes:
        spent: CPU seconds of every method, `Actor.update` for instance, those of a reward's own process included.
    """

    size, host = 1, "127.0.0.1"

    def __init__(self, run: RunConfig) -> None:
        self.spent = Phases(family_cpu_s)
        self.worker = WorkerProcess(run, "actor_rollout", os.getcwd())
        self.worker.join(0, 1, self.worker.meeting_point(self.host))

    def build(self, role: str) -> None:
        self.worker.build(role)

    def drop(self, role: str) -> None:
        self.worker.drop(role)

    def call(self, method: Callable[..., Any], *args: Any) -> list[Any]:
        with self.spent(method.__qualname__):
            return [self.worker.call(method, *args)]

    def start(self, method: Callable[..., Any], *args: Any) -> Done:
        return Done(self.call(method, *args))


class Silent:
    """Takes metrics and keeps none."""

    def log(self, *_: Any) -> None:
        return

    def close(self) -> None:
        return


def offline(run: RunConfig, tracker: Tracker | None = None, group: Any = None) -> tuple[OfflineDPOTrainer, RunInputs]:
    """The trainer of a run, its roles built and a cached reference computed, and what it reads.

    Args:
        run: The run.
        tracker: Takes the metrics; None keeps none.
        group: Plays the roles instead of this process.
    """
    inputs = open_inputs(run)
    seats = {"actor_rollout": group or OneProcess(inputs.config)}
    return offline_trainer(inputs, seats)(tracker=tracker or Silent()), inputs


def online(run: RunConfig, tracker: Tracker | None = None) -> tuple[OnlineDPOTrainer, OneProcess]:
    """The trainer of an online run, its roles built, and the process that plays them; see `offline`."""
    inputs = open_inputs(run)
    group = OneProcess(inputs.config)
    return online_trainer(inputs, {"actor_rollout": group})(tracker=tracker or Silent()), group
