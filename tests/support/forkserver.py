"""Processes that are forked from one which has imported what they need, so that the imports are paid once.

multiprocessing's own fork server is one per process. Tests need two kinds: for the host with megatron-core, and for the
reference NPU without it, as there the device comes first.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from mindspeed_dpo.processes.garbage_collection import collection_suspended

_HOST = ("tests.support.host_imports",)
_NPU = ("tests.support.npu_imports",)


class Template:
    """A process that forks others on request; it ends with this one."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        self._end, child = context.Pipe()
        context.Process(target=_serve, args=(child, modules)).start()
        child.close()
        atexit.register(self._end.close)  # before multiprocessing waits for its processes

    def fork(self, function: Callable[..., None], *args: Any) -> int:
        """Let a new process call the function; gives its id."""
        self._end.send((function, args))
        answer = self._end.recv()
        assert isinstance(answer, int), answer
        return answer


@functools.cache
def template(device: str) -> Template:
    """The template of this device's processes."""
    return Template(_NPU if device == "npu" else _HOST)


def _serve(end: Connection, modules: tuple[str, ...]) -> None:
    with collection_suspended():  # what is imported stays, and its pages stay shared
        for module in modules:
            importlib.import_module(module)
    while True:
        try:
            answer: int | str = _forked(*end.recv())
        except EOFError:
            break
        except OSError as error:
            answer = f"no process was forked: {error}"
        end.send(answer)
    for process in multiprocessing.active_children():
        process.kill()  # even where it is suspended


def _forked(function: Callable[..., None], args: tuple[Any, ...]) -> int:
    process = multiprocessing.get_context("fork").Process(target=function, args=args)
    process.start()
    for argument in args:
        if isinstance(argument, Connection):
            argument.close()  # the last one to hold it must be the process that was forked
    return int(process.pid or 0)
