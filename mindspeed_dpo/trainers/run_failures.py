"""Logs what ends a run before it is complete, once and where it happens, and turns it into the exit code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mindspeed_dpo.controller.failures import WorkerFailure
from mindspeed_dpo.controller.ray_connection import ClusterError
from mindspeed_dpo.controller.role_groups import WeightsMismatch
from mindspeed_dpo.processes.driver_link import LOSS_REPORT_S, driver_link
from mindspeed_dpo.processes.exit_codes import FAILED, INTERRUPTED

logger = logging.getLogger(__name__)


class LoggedFailure(Exception):
    """The end of a run by a failure, or by the user, that has been logged."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def exit_code_of(run: Callable[[], int]) -> int:
    """Return the exit code of a run; a failure that has not been logged within it is logged."""
    try:
        with failures_logged():
            return run()
    except LoggedFailure as failure:
        return failure.code


@contextmanager
def failures_logged() -> Iterator[None]:
    """Log what ends a run.

    Raises:
        LoggedFailure: In place of it, with the exit code.
    """
    try:
        yield
    except KeyboardInterrupt:
        logger.warning("interrupted outside a step; checkpoints saved earlier are complete")
        raise LoggedFailure(INTERRUPTED) from None
    except (ClusterError, WorkerFailure, WeightsMismatch, ValueError, OSError) as error:
        # A part of Ray that has ended takes others with it, whose errors say nothing of the cause.
        ended = isinstance(error, WorkerFailure) and driver_link.loss(LOSS_REPORT_S)
        logger.error("%s", ended or error)
        logger.debug("traceback of the failure", exc_info=True)
        raise LoggedFailure(FAILED) from error
