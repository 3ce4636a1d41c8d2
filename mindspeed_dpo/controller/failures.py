"""Which process of a run failed, where several are lost at once: the one that died, not those that noticed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray

# How long to listen for the cause after the first sign of a failure.
CAUSE_WAIT_S = 3.0
# The same after a sign that may be a lost connection: a busy node tells late that one of its processes died.
DEATH_WAIT_S = 20.0


class WorkerFailure(RuntimeError):
    """A worker process failed or died."""


def failures_of(done: Sequence[Any], ranks: Mapping[Any, int]) -> dict[int, Exception]:
    """What went wrong in answers that have come, by the rank that answered."""
    found: dict[int, Exception] = {}
    for answer in done:
        try:
            ray.get(answer)
        except ray.exceptions.RayError as error:
            found[ranks[answer]] = error
    return found


def as_they_come(answers: Sequence[Any], wait_s: float) -> Iterator[Any]:
    """Those of some answers that come in time, each when it comes; those that are there even when there is no time."""
    end_s, waiting = time.monotonic() + wait_s, list(answers)
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=0)
        if not done:
            done, waiting = ray.wait(waiting, num_returns=1, timeout=max(0.0, end_s - time.monotonic()))
        if not done:
            return
        yield from done


def is_death(error: Exception) -> bool:
    """Whether the process is gone, and so is the cause; others only lost their connection to it.

    Ray has names of its own for a process that it ended itself for want of memory, and for one that went with its node.
    """
    gone = (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError)
    return isinstance(error, gone)


def has_death(failures: Mapping[int, Exception]) -> bool:
    """Whether one of the failures is a death."""
    return any(map(is_death, failures.values()))


def patience_s(failures: Mapping[int, Exception]) -> float:
    """How long to listen for a death that may be behind failures, in seconds.

    A lost connection is a RuntimeError of torch.distributed, whichever the backend, or an error of the system.
    """
    if has_death(failures):
        return 0.0
    causes = [getattr(error, "cause", None) for error in failures.values()]
    return DEATH_WAIT_S if any(isinstance(cause, (RuntimeError, OSError)) for cause in causes) else CAUSE_WAIT_S


def reason(error: Exception) -> str:
    """The cause in one line; Ray's own text, which has many, goes into the log with the failure in full."""
    if isinstance(error, ray.exceptions.RayTaskError):
        lines = str(error.cause).strip().splitlines() or [""]
        return f"{type(error.cause).__name__}: {lines[0]}"
    if is_death(error):
        return "the process died (killed by a signal, out of memory, or crashed)"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
