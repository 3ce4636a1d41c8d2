"""The child process of `sandbox`, in which the user's functions run. It imports the standard library only.

Messages are JSON over a separate socket, so that a function's prints do not interfere. A thread reads them, and the
functions run in the main thread, where they may use signals. When the parent ends for whatever reason, the thread kills
this process and everything it started, including what has a session of its own or has lost its parent.

This process is a grandchild of the parent, behind a guard process. Ray kills a worker together with its children, and
would otherwise leave no process to kill what the functions have started; and the guard does so when this process is
killed, for example because a function hangs.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import math
import os
import queue
import reprlib
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from numbers import Real
from typing import Any

from mindspeed_dpo.processes.descendants import adopt_orphans, end_descendants

Function = Callable[..., Any]
# Errors of a function that do not end its process.
FUNCTION_ERRORS = (Exception, SystemExit)
# What is reported of an error: of its message, and of each end of its traceback, in characters.
MESSAGE_LENGTH = 200
TRACE_LENGTH = 4000
END_TIMEOUT_S = 5.0


class InvalidFunction(Exception):
    """A dotted path does not name a callable; the message completes the sentence "path …"."""


def main() -> None:
    """Serve the functions named on the command line until the parent ends."""
    descriptor, paths = int(sys.argv[2]), json.loads(sys.argv[3])
    # The user's modules see a command line without arguments, and are looked up in the run's directory first.
    sys.argv[1:] = []
    sys.path.insert(0, os.getcwd())
    os.set_inheritable(descriptor, False)
    _leave_guard(descriptor)
    link = Connection(descriptor)
    requests: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(link, requests), daemon=True).start()
    functions: dict[str, Function] = {}
    _send(link, {path: _load(path, functions) for path in paths})
    while True:
        path, arguments = requests.get()
        _send(link, run_function(functions[path], arguments))


def _leave_guard(descriptor: int) -> None:
    """Continue in a forked child. This process waits for it, ends what it has left, and exits the same way.

    SIGTERM lets this process kill the child, also one that does not react itself. No threads exist yet.
    """
    adopt_orphans()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    child = os.fork()
    if child == 0:
        adopt_orphans()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        return
    os.close(descriptor)
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(child, signal.SIGKILL))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_descendants(END_TIMEOUT_S)
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(abs(code))


def _listen(link: Connection, requests: queue.SimpleQueue[tuple[str, dict[str, Any]]]) -> None:
    try:
        while True:
            requests.put(json.loads(link.recv_bytes()))
    except (EOFError, OSError):
        end_descendants(END_TIMEOUT_S)
        # The group consists of this process and its guard.
        os.killpg(os.getpgrp(), signal.SIGKILL)


def _send(link: Connection, message: Any) -> None:
    link.send_bytes(json.dumps(message).encode())


def _load(path: str, functions: dict[str, Function]) -> dict[str, Any]:
    """Import a function and describe its parameters, or the problem with it."""
    try:
        functions[path] = import_function(path)
        return {"parameters": parameters_of(functions[path])}
    except InvalidFunction as error:
        return {"problem": str(error)}
    except FUNCTION_ERRORS as error:
        traceback.print_exc()
        return {"problem": f"cannot be imported: {_one_line(error)}"}


def import_function(path: str) -> Function:
    """Import the callable at a dotted path: a module's function, or a method of an object in a module.

    Raises:
        InvalidFunction: It does not exist, or is not callable.
    """
    words = path.split(".")
    for end in range(len(words) - 1, 0, -1):
        name = ".".join(words[:end])
        try:
            target: Any = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module exists; one that it imports does not
            continue
        for word in words[end:]:
            if not hasattr(target, word):
                raise InvalidFunction(f"cannot be imported: {name} has no {word}")
            target = getattr(target, word)
        if not callable(target):
            raise InvalidFunction(f"is a {type(target).__name__}, not a function")
        return target
    raise InvalidFunction(
        f"cannot be imported: there is no module {words[0]} in {os.getcwd()} or among the installed packages"
        if len(words) > 1 and all(words)
        else "is not a dotted path such as package.module.function"
    )


def parameters_of(function: Function) -> dict[str, Any]:
    """Return the parameters a function takes by name: `names`, None for any; `required`, those without a default.

    Raises:
        InvalidFunction: A required parameter is positional-only.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some functions written in C have no signature
        return {"names": None, "required": []}
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    only_positional = [p.name for p in parameters if p.kind == p.POSITIONAL_ONLY and p.default is p.empty]
    if only_positional:
        raise InvalidFunction(f"takes {only_positional[0]} by position only; it should take its arguments by name")
    takes_any = any(p.kind == p.VAR_KEYWORD for p in parameters)
    return {
        "names": None if takes_any else [p.name for p in named],
        "required": [p.name for p in named if p.default is p.empty],
    }


def run_function(function: Function, arguments: dict[str, Any]) -> dict[str, Any]:
    """Call a function; return its `values` (numbers, None, or descriptions of anything else), or why it `failed`."""
    # JSON has no tuples; the two completions that a judge compares are passed as one.
    arguments = {
        name: [tuple(value) for value in values] if name == "completions" and _are_pairs(values) else values
        for name, values in arguments.items()
    }
    try:
        returned = function(**arguments)
        if inspect.iscoroutine(returned):
            returned = asyncio.run(returned)
        if isinstance(returned, (str, bytes, dict)) or not isinstance(returned, Iterable):
            return {"failed": f"returned {_described(returned)} instead of a list"}
        return {"values": [_value(value) for value in returned]}
    except FUNCTION_ERRORS as error:
        return {"failed": f"raised {_one_line(error)}", "trace": _shortened(traceback.format_exc())}


def _are_pairs(values: list[Any]) -> bool:
    return bool(values) and isinstance(values[0], list)


def _value(value: Any) -> float | str | None:
    # Convert scalars of numpy and torch to Python numbers.
    plain = value.item() if hasattr(value, "item") else value
    if plain is None:
        return None
    if not isinstance(plain, Real):
        return _described(plain)
    number = float(plain)
    return number if math.isfinite(number) else str(number)


def _described(value: Any) -> str:
    return f"the {type(value).__name__} {reprlib.repr(value)}"


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__[:MESSAGE_LENGTH]}: {lines[0][:MESSAGE_LENGTH]}".removesuffix(": ")


def _shortened(text: str) -> str:
    """Both ends of a text that is too long for a log."""
    omitted = len(text) - 2 * TRACE_LENGTH
    if omitted <= 0:
        return text
    return f"{text[:TRACE_LENGTH]}\n… {omitted} characters omitted …\n{text[-TRACE_LENGTH:]}"
