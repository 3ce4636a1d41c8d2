"""The failures of several ranks as one error, which names the process that died rather than those that noticed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from mindspeed_dpo.observability.crash_signals import crash_sentence

# How long to wait for the cause after the first sign of a failure.
CAUSE_WAIT_S = 3.0
# The same after a sign that may be a lost connection: a busy node reports late that one of its processes died.
DEATH_WAIT_S = 20.0


class WorkerFailure(RuntimeError):
    """A worker process failed or died."""


def failures_of(done: Sequence[Any], ranks: Mapping[Any, int]) -> dict[int, Exception]:
    """Return the errors among completed results, by rank.

    Args:
        done: References of completed results.
        ranks: Reference -> rank.
    """
    failures: dict[int, Exception] = {}
    for result in done:
        try:
            ray.get(result)
        except ray.exceptions.RayError as error:
            failures[ranks[result]] = error
    return failures


def iter_completed(results: Sequence[Any], wait_s: float) -> Iterator[Any]:
    """Yield references as they complete within `wait_s` seconds; with 0 those that are complete already."""
    end_s, waiting = time.monotonic() + wait_s, list(results)
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=0)
        if not done:
            done, waiting = ray.wait(waiting, num_returns=1, timeout=max(0.0, end_s - time.monotonic()))
        if not done:
            return
        yield from done


def is_death(error: Exception) -> bool:
    """Return whether the process is dead, and thus the cause; others only lost their connection to it.

    Ray has separate errors for a process that it killed to free memory, and for one whose node failed.
    """
    gone = (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError)
    return isinstance(error, gone)


def has_death(failures: Mapping[int, Exception]) -> bool:
    """Return whether one of the failures is a death."""
    return any(map(is_death, failures.values()))


def listen_s(failures: Mapping[int, Exception]) -> float:
    """Return how long to wait for a death that may have caused the failures, in seconds.

    A lost connection is a RuntimeError of torch.distributed, whichever the backend, or an OSError.
    """
    if has_death(failures):
        return 0.0
    causes = [getattr(error, "cause", None) for error in failures.values()]
    return DEATH_WAIT_S if any(isinstance(cause, (RuntimeError, OSError)) for cause in causes) else CAUSE_WAIT_S


def combined_failure(
    group: str, nodes: Sequence[str], failures: Mapping[int, Exception], what: str, logs: Path
) -> WorkerFailure:
    """Combine the failures of a group's ranks into one error: that of a rank that died, or else of the lowest rank.

    Args:
        group: Name of the group.
        nodes: Address of each rank's node.
        failures: Errors by rank; at least one.
        what: Name of the call that failed.
        logs: Folder of the run's logs; the log of a process that crashed names the signal.

    Returns:
        The error, whose cause is the error of that rank.
    """
    rank, cause = min(failures.items(), key=lambda item: (not is_death(item[1]), item[0]))
    log = f"{group}_{rank}.log"
    crash = crash_sentence(logs / log) if is_death(cause) else ""
    failure = WorkerFailure(
        f"{group} rank {rank} on {nodes[rank]} failed in {what}: {crash or one_line_cause(cause)}; "
        f"see {log} in the run's logs"
    )
    failure.__cause__ = cause
    return failure


def one_line_cause(error: Exception) -> str:
    """Return the cause in one line; Ray's own text has many and goes into the log with the traceback."""
    if isinstance(error, ray.exceptions.RayTaskError):
        lines = str(error.cause).strip().splitlines() or [""]
        return f"{type(error.cause).__name__}: {lines[0]}"
    if is_death(error):
        return "the process died (killed by a signal, out of memory, or crashed)"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
