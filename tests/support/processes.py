"""A pool of gloo processes that run functions as one job, reused between tests because starting them is expensive.

`pool(4).run(function, *args)` calls `function(*args)` in four processes that have joined a process group, with
megatron-core redirected to the host, and returns the four results. The function lives at the top of a module.

They are forked from one process that has imported torch and megatron-core and done nothing else (`forkserver`). A group
that exists costs even while it has no work, as each of its gloo threads looks around a hundred times per second:
so a layout is left as soon as its job is done, and pools are suspended when the tests of a module are over.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import psutil
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel

from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.device import Accelerator, activate
from mindspeed_dpo.parallel import process_groups
from mindspeed_dpo.parallel.rendezvous_store import host_store
from mindspeed_dpo.workers.colocated_roles import ColocatedRoles
from mindspeed_dpo.workers.role_calls import P, R, RoleMethod, RoleT
from tests.support.forkserver import template
from tests.support.npu_processes import serve_on_npu

RESULT_TIMEOUT_S = 300
SHORT_LOOK_S = 0.002
ACTOR = "actor_rollout"
_pools: dict[tuple[str, int, str], Pool] = {}


def pool(world_size: int, name: str = ACTOR, device: str = "cpu") -> Pool:
    """The pool of this size, started at the first call; pools of different names or devices are different jobs."""
    key = (name, world_size, device)
    if key not in _pools:
        _pools[key] = Pool(world_size, device)
    return _pools[key]


def rest() -> None:
    """Suspend all pools until they are used again, without a layout."""
    for one in list(_pools.values()):
        one.suspend()


class Pool:
    """Processes of one size, each with a pipe to this one."""

    def __init__(self, world_size: int, device: str = "cpu") -> None:
        """Start the processes."""
        target = serve_on_npu if device == "npu" else serve
        self._ends, self._processes, self._is_suspended = [], [], False
        for rank in range(world_size):
            end, child = mp.Pipe()
            self._ends.append(end)
            self._processes.append(psutil.Process(template(device).fork(target, rank, world_size, child)))
            child.close()  # so that a process that dies is noticed
        master = self._ends[0].recv()
        for end in self._ends[1:]:
            end.send(master)

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Call the function in every process; a failure anywhere raises here with its traceback."""
        try:
            replies = self._submit(function, args)
        except (EOFError, OSError) as error:
            self.stop()
            raise AssertionError(f"a process of the pool died: {error!r}") from error
        failures = [f"rank {rank}:\n{text}" for rank, (ok, text) in enumerate(replies) if not ok]
        if failures:
            self.stop()
            raise AssertionError("\n".join(failures))
        return [value for _, value in replies]

    def suspend(self) -> None:
        """Let the processes stop until the next call."""
        if not self._is_suspended:
            self.run(_stop_afterwards)
            # A signal to go on must not come before they have stopped.
            pause = threading.Event()
            while any(process.status() != psutil.STATUS_STOPPED for process in self._processes):
                pause.wait(SHORT_LOOK_S)
            self._is_suspended = True

    def _go_on(self) -> None:
        for process in self._processes:
            process.resume()
        self._is_suspended = False

    def _submit(self, function: Callable[..., Any], args: tuple[Any, ...]) -> list[tuple[bool, Any]]:
        if self._is_suspended:
            self._go_on()
        for end in self._ends:
            end.send((function, args))
        for rank, end in enumerate(self._ends):
            if not end.poll(RESULT_TIMEOUT_S):
                self.stop()
                raise AssertionError(f"rank {rank} gave no result within {RESULT_TIMEOUT_S} s")
        return [end.recv() for end in self._ends]

    @property
    def size(self) -> int:
        """Number of processes."""
        return len(self._processes)

    def stop(self) -> None:
        """End the processes."""
        for process in self._processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for key in [key for key, one in _pools.items() if one is self]:
            del _pools[key]


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def serve(rank: int, world_size: int, end: Connection) -> None:
    """Work on the host."""
    work(rank, world_size, end, activate("cpu"))


def work(rank: int, world_size: int, end: Connection, accelerator: Accelerator) -> None:
    """Join the other processes on a device that is active, and run the calls that come through the pipe."""
    torch.set_num_threads(1)
    _device[:] = [accelerator]
    hosted = host_store() if rank == 0 else None
    if hosted is not None:
        end.send(hosted.address)
    master, store = (hosted.address, hosted.store) if hosted is not None else (end.recv(), None)
    process_groups.join(rank, world_size, master, accelerator.backend, timeout_minutes=3, store=store)
    gc.freeze()  # what is imported stays, and need not be looked through for garbage again and again
    while True:
        end.send(_reply(*end.recv()))
        if not _colocated:
            dist.barrier()  # no process may still be in a collective of a group that ends
            leave_layout()
        if _stopping:
            _stopping.clear()
            os.kill(os.getpid(), signal.SIGSTOP)


def _reply(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[bool, Any]:
    try:
        return True, function(*args)
    except Exception:  # every failure belongs in the test's report
        return False, traceback.format_exc()


@atexit.register
def _stop_all() -> None:
    for one in list(_pools.values()):
        one.stop()


class PoolGroup:
    """A pool that plays the roles of a run, as the controller's worker group does on Ray; `name` is the pool's."""

    def __init__(self, run: RunConfig, size: int, name: str = ACTOR) -> None:
        self._pool = pool(size, name, "npu" if run.loop.device == "npu" else "cpu")
        self._pool.run(_join, run, run.actor if name == ACTOR else getattr(run, name))
        # One question after the other, as a process on Ray takes them; other groups work meanwhile.
        self._asking = ThreadPoolExecutor(1)
        self._failure: AssertionError | None = None

    def build(self, role: str) -> None:
        """Build a role in every process."""
        self._pool.run(_build, role)

    def drop(self, role: str) -> None:
        """Drop a role in every process."""
        self._pool.run(_drop, role)

    @property
    def size(self) -> int:
        """Number of processes."""
        return self._pool.size

    @property
    def host(self) -> str:
        """This machine."""
        return "127.0.0.1"

    def call(self, method: RoleMethod[RoleT, P, R], *args: P.args, **kwargs: P.kwargs) -> list[R]:
        """Let a role do something in every process."""
        return self.start(method, *args, **kwargs).result()

    def start(self, method: RoleMethod[RoleT, P, R], *args: P.args, **kwargs: P.kwargs) -> Future[list[R]]:
        """As `call`, without waiting."""
        return self._asking.submit(self._submit, partial(_call, method, *args, **kwargs))

    def _submit(self, call: Callable[[], Any]) -> list[Any]:
        """The first failure ends the pool; later calls raise the same."""
        if self._failure is not None:
            raise self._failure
        try:
            return self._pool.run(call)
        except AssertionError as error:
            self._failure = error
            raise

    def leave(self) -> None:
        """End the roles and the layout in every process."""
        self._pool.run(leave_layout)

    def inspect(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Call `function(colocated, *args)` in every process: for tests that look inside."""
        return self._pool.run(_inspect, function, args)


def leave_layout() -> None:
    """End the roles and process groups of the job before, so that the next one can have another layout.

    megatron-core only forgets its groups; each keeps gloo threads until it is destroyed and nothing, such as a model in
    a reference cycle, holds it any more. A pool that has seen a hundred layouts would have thousands.
    """
    _colocated.clear()
    has_layout = parallel_state.is_initialized()
    if has_layout:
        parallel_state.destroy_model_parallel()
    _destroy_groups()
    if has_layout:
        gc.collect()
        _empty_models_that_stay()
        gc.freeze()  # what is left stays: modules and caches


def _empty_models_that_stay() -> None:
    """Take from models that should be gone what they hold.

    With overlapped gradient sums megatron-core hangs hooks on nodes of autograd that hold the model, and the model
    holds the nodes: a cycle through C++, which Python never finds.
    """
    staying = [one for one in gc.get_objects() if isinstance(one, DistributedDataParallel)]
    for model in staying:
        vars(model).clear()
    if staying:
        gc.collect()


def num_threads() -> int:
    """Threads of this process."""
    return psutil.Process().num_threads()


def _destroy_groups() -> None:
    for group in [group for group in dist.distributed_c10d._world.pg_map if group is not dist.group.WORLD]:
        dist.destroy_process_group(group)


def _stop_afterwards() -> None:
    """Stop this process once all have left the collectives of this call."""
    leave_layout()
    _stopping.append(True)


_colocated: list[ColocatedRoles] = []
_device: list[Accelerator] = []
_stopping: list[bool] = []


def _join(run: RunConfig, leading: RoleConfig) -> None:
    leave_layout()
    _colocated.append(ColocatedRoles.on_joined_group(run, leading, _device[0], dist.get_rank(), dist.get_world_size()))


def _build(role: str) -> None:
    _colocated[0].build(role)


def _drop(role: str) -> None:
    _colocated[0].drop(role)


def _call(method: RoleMethod[RoleT, P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    return _colocated[0].call(method, *args, **kwargs)


def _inspect(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    return function(_colocated[0], *args)
