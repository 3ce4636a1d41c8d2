"""A timer of TRL's steps; runs in TRL's environment."""

from __future__ import annotations

import time

from transformers import TrainerCallback


class StepTimer(TrainerCallback):
    """Wall and CPU seconds of the steps, without setup before the first and teardown after the last."""

    def __init__(self) -> None:
        self.start: tuple[float, float] = (0.0, 0.0)
        self.used: dict[str, float] = {}

    def on_train_begin(self, *_: object, **__: object) -> None:
        self.start = (time.perf_counter(), time.process_time())

    def on_step_end(self, *_: object, **__: object) -> None:
        now = (time.perf_counter(), time.process_time())
        self.used = {"wall_s": now[0] - self.start[0], "cpu_s": now[1] - self.start[1]}
