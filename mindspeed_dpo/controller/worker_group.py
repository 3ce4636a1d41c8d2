"""A group of worker processes that acts as one: a verb goes to every rank, answers come back in rank order.

If one process fails the others would wait for it in a collective; so the first failure ends the group, and the message
names the process that failed, not the ones that noticed. While answers of one group are waited for, the other groups of
the run are watched too: they may be what the first one waits for.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any, NoReturn

import ray

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.controller.failures import (
    WorkerFailure,
    as_they_come,
    failures_of,
    has_death,
    is_death,
    patience_s,
    reason,
)
from mindspeed_dpo.controller.pools import Pool
from mindspeed_dpo.device.environment import RAY_SHOWS_ALL
from mindspeed_dpo.workers.worker_process import WorkerProcess

logger = logging.getLogger(__name__)

# How long to wait for answers before looking after the other groups.
WATCH_INTERVAL_S = 2.0


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

    def look_after_others(self) -> None:
        """See that no process of another group of the run has died.

        Raises:
            WorkerFailure: One has.
        """
        asked = self.asked_of_others()
        for ping in as_they_come(list(asked), wait_s=0.0):
            asked[ping].end_if_lost(ping)

    def asked_of_others(self) -> dict[Any, WorkerGroup]:
        """A question to each process of the other groups of the run, for `end_if_lost`.

        Raises:
            WorkerFailure: A process is known to have died.
        """
        return {ping: group for group in self._others if group is not self for ping in group._ask()}

    def _ask(self) -> list[Any]:
        """A question to each rank that waits behind what the process is at, but is answered at once when it is dead.

        One that was answered is asked anew: the process may have died since.
        """
        for ping in list(as_they_come(list(self._pings), wait_s=0.0)):
            self.end_if_lost(ping)
            del self._pings[ping]
        for rank in set(range(self.size)) - set(self._pings.values()):
            self._pings[self._processes[rank].node_address.remote()] = rank
        return list(self._pings)

    def end_if_lost(self, ping: Any) -> None:
        """End the group if a question that is answered was answered by an error.

        Raises:
            WorkerFailure: It was.
        """
        if failures := failures_of([ping], self._pings):
            self.end(failures, "the background")

    def end(self, failures: dict[int, Exception], what: str) -> NoReturn:
        """End the processes because of what went wrong in some ranks while they did `what`.

        Raises:
            WorkerFailure: Always; it names the cause.
        """
        self.stop()
        rank, cause = min(failures.items(), key=lambda item: (not is_death(item[1]), item[0]))
        raise WorkerFailure(
            f"{self.name} rank {rank} on {self._nodes[rank]} failed in {what}: {reason(cause)}; "
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
            if failures := failures_of(done, ranks):
                self._listen(failures, waiting, ranks)
                self._group.end(failures, self._what)
            if not done:
                self._group.look_after_others()
        found: list[Any] = ray.get(self._answers)
        return found

    def _listen(self, failures: dict[int, Exception], waiting: Sequence[Any], ranks: dict[Any, int]) -> None:
        """Find the death that may be behind the first failures, in this group or another, which is then ended."""
        asked = {} if has_death(failures) else self._group.asked_of_others()
        for answer in as_they_come([*waiting, *asked], patience_s(failures)):
            if answer in asked:
                asked[answer].end_if_lost(answer)
                continue
            failures.update(failures_of([answer], ranks))
            if has_death(failures):
                return
