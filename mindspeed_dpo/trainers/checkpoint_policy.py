"""What a run makes of its evaluations: which checkpoint is the best, whether to go on, which checkpoints stay.

All that is remembered goes into every checkpoint, so a run that continues from one judges as if it had never stopped.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.engine.checkpoint_files import METADATA, iteration_dir
from mindspeed_dpo.engine.retention import mark_best, prune
from mindspeed_dpo.trainers.resume import Continuation

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rule:
    """What is the best, and how long to wait for it.

    Attributes:
        metric: Name of the evaluation's metric; None judges nothing.
        is_min: Whether smaller is better.
        patience: Evaluations in a row without improvement after which the run is over; None waits for ever.
        min_delta: How much more than nothing an improvement is.
        keep: Newest checkpoints that stay; None keeps all.
    """

    metric: str | None = None
    is_min: bool = True
    patience: int | None = None
    min_delta: float = 0.0
    keep: int | None = None

    @classmethod
    def of(cls, run: RunConfig) -> Rule:
        """As the run is configured."""
        loop = run.loop
        return cls(
            loop.best_metric,
            loop.best_metric_mode == "min",
            loop.early_stop_patience,
            loop.early_stop_min_delta,
            run.actor.checkpoint.keep_last_checkpoints,
        )

    def betters(self, value: float, before: float | None, by: float = 0.0) -> bool:
        """Whether a value is better than an earlier one by more than something; no number never is."""
        if not math.isfinite(value):
            return False
        return before is None or (before - value if self.is_min else value - before) > by


@dataclass
class Memory:
    """What is remembered of the evaluations so far.

    Attributes:
        metric: Whose values these are.
        step: Of the best value.
        value: The best value.
        folder: Of the best checkpoint, absolute.
        counted: The last value that was an improvement for patience.
        waited: Evaluations since then.
    """

    metric: str | None = None
    step: int | None = None
    value: float | None = None
    folder: str | None = None
    counted: float | None = None
    waited: int = 0


@dataclass
class Watch:
    """Judges evaluations and looks after checkpoints.

    Attributes:
        rule: What to judge by.
        save: The folder of checkpoints.
        memory: Of earlier evaluations.
    """

    rule: Rule = Rule()
    save: Path = Path()
    memory: Memory = field(default_factory=Memory)

    @classmethod
    def of(cls, run: RunConfig, continuation: Continuation | None) -> Watch:
        """The watch of a run, with what the checkpoint remembers that it goes on from."""
        watch = cls(Rule.of(run), Path(run.actor.checkpoint.save))
        earlier = (continuation.metadata.get("progress") or {}) if continuation else {}
        if continuation is None or not earlier or watch.rule.metric is None:
            return watch
        if earlier["metric"] != watch.rule.metric:
            logger.warning(
                "best_metric was %s and is %s now: the best is looked for anew", earlier["metric"], watch.rule.metric
            )
            return watch
        watch.memory = Memory(**earlier)
        watch._find_best(continuation.folder.parent)
        return watch

    def judge(self, done: int, metrics: Mapping[str, float]) -> bool:
        """Take the metrics of a step; whether it is the best so far, which asks for a checkpoint."""
        name = self.rule.metric
        if name is None or name not in metrics:
            return False
        value, memory = float(metrics[name]), self.memory
        memory.metric = name
        if self.rule.betters(value, memory.counted, self.rule.min_delta):
            memory.counted, memory.waited = value, 0
        else:
            memory.waited += 1
        is_best = self.rule.betters(value, memory.value)
        if is_best:
            memory.step, memory.value = done, value
            memory.folder = os.path.abspath(iteration_dir(self.save, done))
        return is_best

    @property
    def is_over(self) -> bool:
        """Whether patience has run out."""
        return self.rule.patience is not None and self.memory.waited >= self.rule.patience

    @property
    def verdict(self) -> str:
        """Why the run is over."""
        memory = self.memory
        return (
            f"stopping early: {self.rule.metric} has not improved by more than {self.rule.min_delta:g} in "
            f"{memory.waited} evaluations; its best is {memory.value} at step {memory.step}"
        )

    def progress(self) -> dict[str, Any] | None:
        """What a checkpoint is to remember; None where nothing is judged."""
        return asdict(self.memory) if self.rule.metric is not None else None

    def when_whole(self, done: int) -> Callable[[], None]:
        """What is to be done once the checkpoint of now is whole: name the best one, delete what is not to stay.

        By then there may be a better one on its way, which must not yet be named, nor the one before deleted.
        """
        memory = replace(self.memory)

        def note() -> None:
            self._mark(memory)
            if self.rule.keep is not None:
                prune(self.save, done, self.rule.keep, {memory.step} if memory.step is not None else ())

        return note

    def _mark(self, memory: Memory) -> None:
        if memory.folder is None:
            return
        folder = Path(memory.folder)
        beside = folder.parent.resolve() == self.save.resolve()
        mark_best(
            self.save,
            {
                "metric": memory.metric,
                "mode": "min" if self.rule.is_min else "max",
                "step": memory.step,
                "value": memory.value,
                "checkpoint": folder.name if beside else memory.folder,
            },
        )

    def _find_best(self, beside: Path) -> None:
        """Look where the best checkpoint lies now, as folders are moved, and name it again."""
        memory = self.memory
        if memory.step is None:
            return
        places = [iteration_dir(beside, memory.step), Path(str(memory.folder))]
        found = next((place for place in places if (place / METADATA).is_file()), None)
        if found is None:
            logger.warning(
                "the best checkpoint, of step %d with %s %s, is not there any more; its value still counts",
                *(memory.step, memory.metric, memory.value),
            )
        memory.folder = os.path.abspath(found) if found else None
        self._mark(memory)
