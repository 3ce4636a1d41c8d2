"""A whole run in this process: trainer, worker and roles are those of `ray_gpt.py`, only Ray is left out."""

from __future__ import annotations

import os
from typing import Any

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.trainers.assemble_offline import offline_trainer
from mindspeed_dpo.trainers.inputs import Inputs, open_inputs
from mindspeed_dpo.trainers.offline_dpo import OfflineDPOTrainer
from mindspeed_dpo.workers.process import WorkerProcess


class Done:
    """An answer that is there already."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def result(self) -> list[Any]:
        return [self._answer]


class OneProcess:
    """A worker process of a pool of one, behind the face of a worker group."""

    size, host = 1, "127.0.0.1"

    def __init__(self, run: RunConfig) -> None:
        self.worker = WorkerProcess(run, "actor_rollout", os.getcwd())
        self.worker.join(0, 1, self.worker.meeting_point(self.host))

    def build(self, role: str) -> None:
        self.worker.build(role)

    def drop(self, role: str) -> None:
        self.worker.drop(role)

    def call(self, role: str, verb: str, *args: Any) -> list[Any]:
        return [self.worker.call(role, verb, *args)]

    def start(self, role: str, verb: str, *args: Any) -> Done:
        return Done(self.worker.call(role, verb, *args))


class Silent:
    """Takes metrics and keeps none."""

    def log(self, *_: Any) -> None:
        return

    def close(self) -> None:
        return


def offline(run: RunConfig) -> tuple[OfflineDPOTrainer, Inputs]:
    """The trainer of a run, its roles built and a cached reference computed, and what it reads."""
    inputs = open_inputs(run)
    group = OneProcess(inputs.config)
    trainer = offline_trainer(inputs, {"actor_rollout": group})(tracker=Silent())
    assert isinstance(trainer, OfflineDPOTrainer)
    return trainer, inputs
