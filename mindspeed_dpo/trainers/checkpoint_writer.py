"""Writes a run's checkpoints one at a time, with training paused or in the background.

A background write is polled between steps. The next save, the end of the run and an error wait for it; older
checkpoints are deleted only once it is complete.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.controller.failures import WorkerFailure
from mindspeed_dpo.controller.role_groups import ActorGroup
from mindspeed_dpo.observability.live_status import live_status
from mindspeed_dpo.trainers.checkpoint_policy import CheckpointPolicy
from mindspeed_dpo.trainers.step_timer import StepTimer

logger = logging.getLogger(__name__)


@dataclass
class CheckpointWriter:
    """Has the actor write checkpoints; as a context manager it completes a pending one on exit.

    Attributes:
        actor: Writes them.
        policy: Applied after each complete checkpoint.
        in_background: Whether training continues during the write.
    """

    actor: ActorGroup
    policy: CheckpointPolicy
    in_background: bool = False
    _on_complete: Callable[[], None] | None = None

    def save(self, num_done: int, metadata: Mapping[str, Any], prefetched: RolloutBatch | None) -> None:
        """Write the checkpoint of a step, or begin to, once the one before is complete.

        Args:
            num_done: Steps completed.
            metadata: JSON values for the checkpoint's metadata.
            prefetched: Rollouts already generated for the next step.
        """
        self.poll(wait=True)
        timer, apply_policy = StepTimer(), self.policy.on_checkpoint_complete(num_done)
        with timer("timing/save"), live_status.phase("checkpoint"):
            folder = self.actor.save(num_done, {**metadata, "progress": self.policy.progress()}, prefetched)

        def on_complete() -> None:
            apply_policy()
            how = ", in the background after" if self.in_background else " in"
            logger.info("checkpoint of step %d written to %s%s %.1f s", num_done, folder, how, timer.total_s)

        if self.in_background:
            self._on_complete = on_complete
        else:
            on_complete()

    def poll(self, wait: bool = False) -> None:
        """Complete the pending checkpoint if all its files are written; `wait` until they are."""
        on_complete, self._on_complete = self._on_complete, None
        if on_complete is None:
            return
        with live_status.phase("completing the checkpoint"):
            is_complete = self.actor.finish_save(wait)
        if is_complete:
            on_complete()
        else:
            self._on_complete = on_complete

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.poll(wait=True)
        elif isinstance(error, Exception):
            try:
                self.poll(wait=True)
            except (RuntimeError, ValueError, OSError) as second_error:
                # The original error is raised again. The end of a process causes both, and is reported with that one.
                cause = "" if isinstance(second_error, WorkerFailure) else f": {second_error}"
                logger.warning("the checkpoint in progress is incomplete%s", cause)
