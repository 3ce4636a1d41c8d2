"""A group of worker processes that acts as one: a verb goes to every rank, answers come back in rank order.

If one process fails the others would wait for it in a collective; so the first failure ends the group, and the message
names the process that failed, not the ones that noticed. While answers of one group are waited for, the other groups of
the run are watched too: they may be what the first one waits for.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import ray

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.controller.pools import Pool
from mindspeed_dpo.device.environment import RAY_SHOWS_ALL
from mindspeed_dpo.workers.process import WorkerProcess

logger = logging.getLogger(__name__)

# How long to listen for the cause after the first sign of a failure.
CAUSE_WAIT_S = 3.0
# How long to wait for answers before looking after the other groups.
WATCH_INTERVAL_S = 2.0


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
        shows_all = os.environ.get(RAY_SHOWS_ALL.get(resource, ""), "").lower() in ("1", "true")
        return int(ids[0]) if ids and shows_all else 0

    def join_here(self, rank: int, world_size: int, master: str, resource: str) -> None:
        """`join` with the local rank that belongs to this process."""
        self.join(rank, world_size, master, self.local_rank(resource))


class WorkerGroup:
    """The processes of one pool."""

    def __init__(self, run: RunConfig, pool: Pool, others: list[WorkerGroup] | None = None) -> None:
        """Start the processes and let them join; nothing is built yet.

        Args:
            run: The whole run.
            pool: Where the processes lie.
            others: All groups of the run, which watch each other; this one joins the list.

        Raises:
            WorkerFailure: One of them failed.
        """
        self.name = pool.name
        self._pings: dict[Any, int] = {}
        self._others = others if others is not None else []
        remote = ray.remote(NodeProcess)
        self._processes = [remote.options(**options).remote(run, pool.name, os.getcwd()) for options in pool.options()]
        self._nodes = ["a node that is not known yet"] * pool.size
        self._nodes = self._gather([process.node_address.remote() for process in self._processes], "start")
        master = self._gather([self._processes[0].meeting_point.remote(self._nodes[0])], "meeting_point")[0]
        places = enumerate(self._processes)
        self._gather([p.join_here.remote(rank, pool.size, master, pool.resource) for rank, p in places], "join")
        self._others.append(self)

    @property
    def size(self) -> int:
        """Number of processes."""
        return len(self._processes)

    @property
    def host(self) -> str:
        """Address of the node of rank 0."""
        return self._nodes[0]

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
        return self.start(role, verb, *args).result()

    def start(self, role: str, verb: str, *args: Any) -> Answers:
        """As `call`, without waiting: several groups can work at the same time."""
        shared = [ray.put(argument) for argument in args]
        return self._start("call", role, verb, *shared)

    def stop(self) -> None:
        """End the processes."""
        for process in self._processes:
            ray.kill(process)

    def _all(self, method: str, *args: Any) -> list[Any]:
        return self._start(method, *args).result()

    def _start(self, method: str, *args: Any) -> Answers:
        what = ".".join(str(argument) for argument in args[:2]) or method
        return Answers(self, [getattr(process, method).remote(*args) for process in self._processes], what)

    def _gather(self, answers: Sequence[Any], what: str) -> list[Any]:
        return Answers(self, answers, what).result()

    def look_after_others(self, wait_s: float = 0.0) -> None:
        """See that no process of another group of the run has died.

        Args:
            wait_s: How long to listen to each group.

        Raises:
            WorkerFailure: One has.
        """
        for group in self._others:
            if group is not self:
                group._look(wait_s)

    def _look(self, wait_s: float) -> None:
        """A question waits behind what the process is at, but is answered at once when the process is dead."""
        asked = set(self._pings.values())
        for rank, process in enumerate(self._processes):
            if rank not in asked:
                self._pings[process.node_address.remote()] = rank
        done, _ = ray.wait(list(self._pings), num_returns=len(self._pings), timeout=wait_s)
        if failures := _failures(done, self._pings):
            self.end(failures, "the background")
        for answer in done:
            del self._pings[answer]

    def end(self, failures: dict[int, Exception], what: str) -> None:
        """End the processes because of what went wrong in some ranks while they did `what`.

        Raises:
            WorkerFailure: Always; it names the cause.
        """
        self.stop()
        # A process that died is the cause; the others only lost their connection to it.
        rank, cause = min(failures.items(), key=lambda item: (not _is_death(item[1]), item[0]))
        raise WorkerFailure(
            f"{self.name} rank {rank} on {self._nodes[rank]} failed in {what}: {_reason(cause)}; "
            f"see {self.name}_{rank}.log in the run's logs"
        ) from cause


class Answers:
    """What the processes of a group were asked and have not answered yet."""

    def __init__(self, group: WorkerGroup, answers: Sequence[Any], what: str) -> None:
        self._group = group
        self._answers = list(answers)
        self._what = what

    def result(self) -> list[Any]:
        """Wait for all ranks; what each answered, in rank order.

        Raises:
            WorkerFailure: A process failed, here or in another group of the run; its group is ended.
        """
        ranks = {answer: rank for rank, answer in enumerate(self._answers)}
        waiting = self._answers
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1, timeout=WATCH_INTERVAL_S)
            if failures := _failures(done, ranks):
                late, _ = ray.wait(waiting, num_returns=len(waiting), timeout=CAUSE_WAIT_S) if waiting else ([], [])
                failures.update(_failures(late, ranks))
                if not any(map(_is_death, failures.values())):
                    # An error may only be the loss of a process elsewhere, which is then the one to name.
                    self._group.look_after_others(CAUSE_WAIT_S)
                self._group.end(failures, self._what)
            if not done:
                self._group.look_after_others()
        found: list[Any] = ray.get(self._answers)
        return found


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
