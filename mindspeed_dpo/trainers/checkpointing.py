"""Checkpoints of a run, one at a time: written while it waits, or while it trains on.

What is written in the background is looked after between steps. The next save, the end of the run and an error wait for
it; only when it is whole are others deleted on its account.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.trainers.checkpoint_policy import Watch
from mindspeed_dpo.trainers.timer import Stopwatch

logger = logging.getLogger(__name__)


class Saves(Protocol):
    """Whoever can write a checkpoint."""

    def save(self, iteration: int, remembered: Mapping[str, Any], ahead: RolloutBatch | None = None) -> str:
        """See `roles.Actor`."""

    def finish_save(self, wait: bool) -> bool:
        """See `roles.Actor`."""


@dataclass
class Saving:
    """Has checkpoints written; on leaving it, none is left half done.

    Attributes:
        actor: Writes them.
        watch: Looks after those that are whole.
        in_background: Whether training goes on meanwhile.
    """

    actor: Saves
    watch: Watch
    in_background: bool = False
    _when_whole: Callable[[], None] | None = None

    def save(self, done: int, remembered: Mapping[str, Any], ahead: RolloutBatch | None) -> None:
        """Write the checkpoint after `done` steps, or begin to, once the one before is whole."""
        self.settle(wait=True)
        clock, note = Stopwatch(), self.watch.when_whole(done)
        with clock("timing/save"):
            folder = self.actor.save(done, {**remembered, "progress": self.watch.progress()}, ahead)

        def is_whole() -> None:
            note()
            what = ", while it went on after" if self.in_background else " in"
            logger.info("checkpoint of step %d written to %s%s %.1f s", done, folder, what, clock.total_s)

        if self.in_background:
            self._when_whole = is_whole
        else:
            is_whole()

    def settle(self, wait: bool = False) -> None:
        """See whether what is being written is whole, or wait until it is."""
        is_whole, self._when_whole = self._when_whole, None
        if is_whole is None:
            return
        if self.actor.finish_save(wait):
            is_whole()
        else:
            self._when_whole = is_whole

    def __enter__(self) -> Saving:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.settle(wait=True)
        elif isinstance(error, Exception):
            try:
                self.settle(wait=True)
            except (RuntimeError, ValueError, OSError) as another:
                # The first error is the one to be told.
                logger.warning("the checkpoint that was being written is not whole: %s", another)
