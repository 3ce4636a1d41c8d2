"""A group of worker processes that acts as one: a verb goes to every rank, answers come back in rank order.

If one process fails the others would wait for it in a collective; so the first failure ends the group, and the message
names the process that failed, not the ones that noticed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import ray

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.controller.pools import Pool
from mindspeed_dpo.workers.process import WorkerProcess

logger = logging.getLogger(__name__)

_SHOW_ALL = (
    "RAY_EXPERIMENTAL_NOSET_ASCEND_RT_VISIBLE_DEVICES",
    "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES",
)

# How long to listen for the cause after the first sign of a failure.
CAUSE_WAIT_S = 3.0


class WorkerFailure(RuntimeError):
    """A worker process failed or died."""


class NodeProcess(WorkerProcess):
    """A worker process that knows where Ray put it."""

    def node_address(self) -> str:
        """The address under which other nodes reach this one."""
        return str(ray.util.get_node_ip_address())

    def local_rank(self, resource: str) -> int:
        """Index of this process's device among those it sees.

        Ray shows a process its own devices only, so that is 0, unless it was told to leave that to the process.
        """
        ids = ray.get_runtime_context().get_accelerator_ids().get(resource, [])
        shows_all = any(name in os.environ for name in _SHOW_ALL)
        return int(ids[0]) if ids and shows_all else 0

    def join_here(self, rank: int, world_size: int, master: str, resource: str) -> None:
        """`join` with the local rank that belongs to this process."""
        self.join(rank, world_size, master, self.local_rank(resource))


class WorkerGroup:
    """The processes of one pool."""

    def __init__(self, run: RunConfig, pool: Pool) -> None:
        """Start the processes and let them join; nothing is built yet.

        Raises:
            WorkerFailure: One of them failed.
        """
        self.name = pool.name
        remote = ray.remote(NodeProcess)
        self._processes = [remote.options(**options).remote(run, pool.name, os.getcwd()) for options in pool.options()]
        self._nodes = ["a node that is not known yet"] * pool.size
        self._nodes = self._gather([process.node_address.remote() for process in self._processes], "start")
        master = self._gather([self._processes[0].meeting_point.remote(self._nodes[0])], "meeting_point")[0]
        places = enumerate(self._processes)
        self._gather([p.join_here.remote(rank, pool.size, master, pool.resource) for rank, p in places], "join")

    def build(self, role: str) -> None:
        """Build a role in every process."""
        self._all("build", role)

    def drop(self, role: str) -> None:
        """Drop a role in every process."""
        self._all("drop", role)

    def call(self, role: str, verb: str, *args: Any) -> list[Any]:
        """Let a role do something in every process.

        Returns:
            What each rank answered, in rank order.

        Raises:
            WorkerFailure: A process failed; the group is ended.
        """
        shared = [ray.put(argument) for argument in args]
        return self._all("call", role, verb, *shared)

    def stop(self) -> None:
        """End the processes."""
        for process in self._processes:
            ray.kill(process)

    def _all(self, method: str, *args: Any) -> list[Any]:
        what = ".".join(str(argument) for argument in args[:2]) or method
        return self._gather([getattr(process, method).remote(*args) for process in self._processes], what)

    def _gather(self, answers: Sequence[Any], what: str) -> list[Any]:
        ranks = {answer: rank for rank, answer in enumerate(answers)}
        waiting = list(answers)
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1)
            failures = _failures(done, ranks)
            if failures:
                late, _ = ray.wait(waiting, num_returns=len(waiting), timeout=CAUSE_WAIT_S) if waiting else ([], [])
                self._end({**failures, **_failures(late, ranks)}, what)
        return ray.get(list(answers))

    def _end(self, failures: dict[int, Exception], what: str) -> None:
        self.stop()
        # A process that died is the cause; the others only lost their connection to it.
        rank, cause = min(failures.items(), key=lambda item: (not _is_death(item[1]), item[0]))
        raise WorkerFailure(
            f"{self.name} rank {rank} on {self._nodes[rank]} failed in {what}: {_reason(cause)}; "
            f"see {self.name}_{rank}.log in the run's logs"
        ) from cause


def _failures(done: Sequence[Any], ranks: dict[Any, int]) -> dict[int, Exception]:
    found: dict[int, Exception] = {}
    for answer in done:
        try:
            ray.get(answer)
        except ray.exceptions.RayError as error:
            found[ranks[answer]] = error
    return found


def _is_death(error: Exception) -> bool:
    return isinstance(error, ray.exceptions.RayActorError)


def _reason(error: Exception) -> str:
    """The cause in one line; Ray's own text, which has many, goes into the log with the failure in full."""
    if isinstance(error, ray.exceptions.RayTaskError):
        lines = str(error.cause).strip().splitlines() or [""]
        return f"{type(error.cause).__name__}: {lines[0]}"
    if _is_death(error):
        return "the process died (killed by a signal, out of memory, or crashed)"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
