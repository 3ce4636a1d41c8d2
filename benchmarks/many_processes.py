"""Runs the workers and roles of `ray_gpt.py` in several processes of this machine, without Ray."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from measuring import peak_mib
from one_process import Done

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.workers.worker_process import WorkerProcess

USED = "used"
START_METHOD = "spawn"
"""Of multiprocessing: each process imports what it needs, so that its memory is its own."""


class ManyProcesses:
    """The processes of a pool, with the interface of a worker group; a process that fails ends the measurement."""

    host = "127.0.0.1"

    def __init__(self, run: RunConfig, size: int) -> None:
        self.size = size
        context = multiprocessing.get_context(START_METHOD)
        pipes = [context.Pipe() for _ in range(size)]
        self._ends = [ours for ours, _ in pipes]
        for rank, (_, theirs) in enumerate(pipes):
            context.Process(target=_serve, args=(run, rank, size, theirs), daemon=True).start()
            theirs.close()
        master = self._ends[0].recv()
        for end in self._ends[1:]:
            end.send(master)

    def build(self, role: str) -> None:
        self._request("build", role)

    def drop(self, role: str) -> None:
        self._request("drop", role)

    def call(self, method: Callable[..., Any], *args: Any) -> list[Any]:
        return self._request("call", method, *args)

    def start(self, method: Callable[..., Any], *args: Any) -> Done:
        return Done(self.call(method, *args))

    def used(self) -> list[tuple[float, float]]:
        """Return the CPU seconds and peak MiB of each process so far."""
        return self._request(USED)

    def _request(self, *words: Any) -> list[Any]:
        for end in self._ends:
            end.send(words)
        return [end.recv() for end in self._ends]


def _serve(run: RunConfig, rank: int, size: int, end: Connection) -> None:
    worker = WorkerProcess(run, "actor_rollout", os.getcwd())
    if rank == 0:
        master = worker.rendezvous_address(ManyProcesses.host)
        end.send(master)
    else:
        master = end.recv()
    worker.join(rank, size, master)
    while True:
        name, *args = end.recv()
        end.send((time.process_time(), peak_mib()) if name == USED else getattr(worker, name)(*args))
