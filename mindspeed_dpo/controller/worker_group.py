"""A group of worker processes on Ray: one call goes to every rank, results come back in rank order.

A failed process would leave the others waiting in a collective, so the first failure terminates the group, and the
error names the process that failed rather than those that noticed. While results of one group are awaited, the other
groups of the run are monitored too, as the first one may be waiting for them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Generic, NoReturn

import ray

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.controller.cluster_capacity import living_nodes
from mindspeed_dpo.controller.failures import (
    WorkerFailure,
    combined_failure,
    failures_of,
    has_death,
    iter_completed,
    listen_s,
)
from mindspeed_dpo.controller.placement_groups import Pool
from mindspeed_dpo.controller.ray_worker import RayWorker
from mindspeed_dpo.observability.live_status import live_status
from mindspeed_dpo.observability.logs import logs_folder
from mindspeed_dpo.parallel.rendezvous_store import LOOPBACK
from mindspeed_dpo.processes.driver_link import driver_link
from mindspeed_dpo.workers.role_calls import P, R, RoleMethod, RoleT

# Interval at which the other groups are checked while results are awaited.
MONITOR_INTERVAL_S = 1.0


class WorkerGroup:
    """The processes of one pool."""

    def __init__(self, run: RunConfig, pool: Pool, others: list[WorkerGroup] | None = None) -> None:
        """Start the processes and let them join; roles are built later.

        Args:
            run: Settings of the run.
            pool: Placement of the processes.
            others: All groups of the run, which monitor each other; this one is appended.

        Raises:
            WorkerFailure: A process failed.
        """
        self.name = pool.name
        self._logs = logs_folder(run.loop.output_dir)
        self._pings: dict[Any, int] = {}
        self._others = others if others is not None else []
        remote = ray.remote(RayWorker)
        self._processes = [remote.options(**options).remote(run, pool.name, os.getcwd()) for options in pool.options()]
        self._nodes = ["a node not yet determined"] * pool.size
        started = [process.node_address.remote() for process in self._processes]
        self._nodes = self._wait(started, "start", f"starting processes of {pool.name}")
        self._host = LOOPBACK if len(living_nodes()) == 1 else self._nodes[0]
        master = self._wait([self._processes[0].rendezvous_address.remote(self._host)], "rendezvous_address")[0]
        ranks = enumerate(self._processes)
        joined = [p.join_here.remote(rank, pool.size, master, pool.resource) for rank, p in ranks]
        self._wait(joined, "join", f"joining processes of {pool.name}")
        self._others.append(self)

    @property
    def size(self) -> int:
        """Number of processes."""
        return len(self._processes)

    @property
    def host(self) -> str:
        """Address at which the run's processes reach rank 0."""
        return self._host

    def build(self, role: str) -> None:
        """Build a role in every process.

        Raises:
            WorkerFailure: A process failed; the group is terminated.
        """
        self._wait([process.build.remote(role) for process in self._processes], f"build.{role}", f"loading {role}")

    def drop(self, role: str) -> None:
        """Drop a role in every process.

        Raises:
            WorkerFailure: A process failed; the group is terminated.
        """
        self._wait([process.drop.remote(role) for process in self._processes], f"drop.{role}")

    def call(self, method: RoleMethod[RoleT, P, R], *args: P.args, **kwargs: P.kwargs) -> list[R]:
        """Call a role's method in every process.

        Args:
            method: As its interface declares it, such as `Actor.update`.
            *args: Arguments of the method, the same for every process.
            **kwargs: Likewise.

        Returns:
            Results in rank order.

        Raises:
            WorkerFailure: A process failed; the group is terminated.
        """
        return self.start(method, *args, **kwargs).result()

    def start(self, method: RoleMethod[RoleT, P, R], *args: P.args, **kwargs: P.kwargs) -> PendingResults[R]:
        """Start a call as `call` makes it, without waiting, so that several groups can work at the same time."""
        shared = [ray.put(argument) for argument in args]
        named = {name: ray.put(argument) for name, argument in kwargs.items()}
        results = [process.call.remote(method, *shared, **named) for process in self._processes]
        return PendingResults(self, results, method.__qualname__)

    def stop(self) -> None:
        """Kill the processes."""
        # Without its servers Ray would wait for them.
        if not driver_link.loss():
            for process in self._processes:
                ray.kill(process)

    def _wait(self, results: Sequence[Any], what: str, phase: str | None = None) -> list[Any]:
        """Wait for the results of a call; in a phase of the live status, whose count is that of the processes."""
        pending: PendingResults[Any] = PendingResults(self, results, what)
        if phase is None:
            return pending.result()
        with live_status.phase(phase, len(results)) as shown:
            return pending.result(shown.advance)

    def check_others(self) -> None:
        """Check that no process of another group of the run has died.

        Raises:
            WorkerFailure: One has.
        """
        pings = self.ping_others()
        for ping in iter_completed(list(pings), wait_s=0.0):
            pings[ping].stop_if_failed(ping)

    def ping_others(self) -> dict[Any, WorkerGroup]:
        """Ping each process of the other groups of the run; the pings are for `stop_if_failed`.

        Raises:
            WorkerFailure: A process has already been seen to have died.
        """
        return {ping: group for group in self._others if group is not self for ping in group._ping()}

    def _ping(self) -> list[Any]:
        """Ping each rank; a ping queues behind the rank's current call, but fails at once when the process is dead.

        It also fails where something has ended that the process has started, such as vLLM.

        A completed ping is sent again, as the process may have died since.
        """
        for ping in list(iter_completed(list(self._pings), wait_s=0.0)):
            self.stop_if_failed(ping)
            del self._pings[ping]
        for rank in set(range(self.size)) - set(self._pings.values()):
            self._pings[self._processes[rank].check_alive.remote()] = rank
        return list(self._pings)

    def stop_if_failed(self, ping: Any) -> None:
        """Terminate the group if a completed ping failed.

        Raises:
            WorkerFailure: It did.
        """
        if failures := failures_of([ping], self._pings):
            self.fail(failures, "the background")

    def fail(self, failures: dict[int, Exception], what: str) -> NoReturn:
        """Terminate the group because of failures by rank, which occurred in the call `what`.

        Raises:
            WorkerFailure: Always; it names the cause.
        """
        self.stop()
        raise combined_failure(self.name, self._nodes, failures, what, self._logs)


class PendingResults(Generic[R]):
    """The results of a call that a group's processes have not all returned yet."""

    def __init__(self, group: WorkerGroup, results: Sequence[Any], what: str) -> None:
        """Wrap Ray's object references.

        Args:
            group: Whose processes were called.
            results: One reference per rank, in rank order.
            what: Name of the call, for messages.
        """
        self._group = group
        self._results = list(results)
        self._what = what

    def result(self, on_done: Callable[[int], None] = lambda count: None) -> list[R]:
        """Wait for all ranks and return their results in rank order.

        Args:
            on_done: Called with a number of ranks whose results have arrived.

        Raises:
            WorkerFailure: A process failed, here or in another group of the run; its group is terminated.
        """
        ranks = {result: rank for rank, result in enumerate(self._results)}
        waiting = self._results
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1, timeout=MONITOR_INTERVAL_S)
            if ended := driver_link.loss():
                raise WorkerFailure(ended)
            if failures := failures_of(done, ranks):
                self._find_cause(failures, waiting, ranks)
                self._group.fail(failures, self._what)
            on_done(len(done))
            if not done:
                self._group.check_others()
        results: list[R] = ray.get(self._results)
        return results

    def _find_cause(self, failures: dict[int, Exception], waiting: Sequence[Any], ranks: dict[Any, int]) -> None:
        """Add the death that may have caused the first failures; if it is in another group, terminate that one."""
        pings = {} if has_death(failures) else self._group.ping_others()
        for result in iter_completed([*waiting, *pings], listen_s(failures)):
            if result in pings:
                pings[result].stop_if_failed(result)
                continue
            failures.update(failures_of([result], ranks))
            if has_death(failures):
                return
