"""Runs the trainer, worker and roles of `ray_gpt.py` in this process, without Ray."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from measuring import family_cpu_s
from phases import Phases

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.observability.tracker import Tracker
from mindspeed_dpo.trainers.build_offline import offline_trainer
from mindspeed_dpo.trainers.build_online import online_trainer
from mindspeed_dpo.trainers.offline_dpo import OfflineDPOTrainer
from mindspeed_dpo.trainers.online_dpo import OnlineDPOTrainer
from mindspeed_dpo.trainers.run_inputs import RunInputs, open_inputs
from mindspeed_dpo.workers.worker_process import WorkerProcess


class Done:
    """Results that are already available, with the interface of pending results."""

    def __init__(self, results: list[Any]) -> None:
        self._results = results

    def result(self) -> list[Any]:
        return self._results


class OneProcess:
    """A pool of one worker in this process, with the interface of a worker group.

    Attributes:
        spent: CPU seconds by method, such as `Actor.update`, including those of a reward's child process.
    """

    size, host = 1, "127.0.0.1"

    def __init__(self, run: RunConfig) -> None:
        self.spent = Phases(family_cpu_s)
        self.worker = WorkerProcess(run, "actor_rollout", os.getcwd())
        self.worker.join(0, 1, self.worker.rendezvous_address(self.host))

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
    """A tracker that discards all metrics."""

    def log(self, *_: Any) -> None:
        return

    def close(self) -> None:
        return


def offline(run: RunConfig, tracker: Tracker | None = None, group: Any = None) -> tuple[OfflineDPOTrainer, RunInputs]:
    """Return the trainer of a run and its inputs; the roles are built and a cached reference is computed.

    Args:
        run: Settings of the run.
        tracker: Receives the metrics; None discards them.
        group: Worker group to use instead of this process.
    """
    inputs = open_inputs(run)
    groups = {"actor_rollout": group or OneProcess(inputs.config)}
    return offline_trainer(inputs, groups)(tracker=tracker or Silent()), inputs


def online(run: RunConfig, tracker: Tracker | None = None) -> tuple[OnlineDPOTrainer, OneProcess]:
    """Return the trainer of an online run, with its roles built, and its worker group; arguments as in `offline`."""
    inputs = open_inputs(run)
    group = OneProcess(inputs.config)
    return online_trainer(inputs, {"actor_rollout": group})(tracker=tracker or Silent()), group
