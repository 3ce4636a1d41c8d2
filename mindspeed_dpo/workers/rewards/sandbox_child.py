"""The process in which the user's functions run. Standard library only; its other end is `isolation`.

Messages are JSON over a socket of its own, so that what a function prints is no message. A thread reads them, and the
functions have the main thread, where they may use signals. When the other end goes away, however it ended, the thread
ends this process and whatever it started.

The process is not the other end's own child but that one's: Ray, which ends a worker together with its children, would
otherwise leave nobody to end what the functions have started.
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

Function = Callable[..., Any]
# What a function may do wrong without ending its process.
MISTAKES = (Exception, SystemExit)


class Unusable(Exception):
    """A dotted path leads to nothing that can be called; the text completes the sentence "path …"."""


def main() -> None:
    """Serve the functions named on the command line until the other end is gone."""
    descriptor, paths = int(sys.argv[2]), json.loads(sys.argv[3])
    # The user's modules find the command line of a program without arguments, and the run's directory before all else.
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
        _send(link, answer(functions[path], arguments))


def _leave_guard(descriptor: int) -> None:
    """Go on in a child; the process left behind waits for it and ends the same way. There are no threads yet."""
    child = os.fork()
    if child == 0:
        return
    os.close(descriptor)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(abs(code))


def _listen(link: Connection, requests: queue.SimpleQueue[tuple[str, dict[str, Any]]]) -> None:
    try:
        while True:
            requests.put(json.loads(link.recv_bytes()))
    except (EOFError, OSError):
        # The group is this process, its guard, and every program that a function has started.
        os.killpg(os.getpgrp(), signal.SIGKILL)


def _send(link: Connection, message: Any) -> None:
    link.send_bytes(json.dumps(message).encode())


def _load(path: str, functions: dict[str, Function]) -> dict[str, Any]:
    """Import a function and describe it: what it takes, or why it cannot be used."""
    try:
        functions[path] = find(path)
        return {"takes": takes(functions[path])}
    except Unusable as error:
        return {"problem": str(error)}
    except MISTAKES as error:
        traceback.print_exc()
        return {"problem": f"cannot be imported: {_told(error)}"}


def find(path: str) -> Function:
    """The object at a dotted path: a module's function, or a method of an object in a module.

    Raises:
        Unusable: There is none, or it cannot be called.
    """
    words = path.split(".")
    for end in range(len(words) - 1, 0, -1):
        name = ".".join(words[:end])
        try:
            found: Any = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module is there; one that it needs is not
            continue
        for word in words[end:]:
            if not hasattr(found, word):
                raise Unusable(f"cannot be imported: {name} has no {word}")
            found = getattr(found, word)
        if not callable(found):
            raise Unusable(f"is a {type(found).__name__}, not a function")
        return found
    raise Unusable(
        f"cannot be imported: there is no module {words[0]} in {os.getcwd()} or among the installed packages"
        if len(words) > 1 and all(words)
        else "is not a dotted path such as package.module.function"
    )


def takes(function: Function) -> dict[str, Any]:
    """The arguments a function takes by name: `names`, None for any; `required`, those without a default."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some functions written in C do not tell
        return {"names": None, "required": []}
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    only_positional = [p.name for p in parameters if p.kind == p.POSITIONAL_ONLY and p.default is p.empty]
    if only_positional:
        raise Unusable(f"takes {only_positional[0]} by position only; it should take its arguments by name")
    takes_any = any(p.kind == p.VAR_KEYWORD for p in parameters)
    return {
        "names": None if takes_any else [p.name for p in named],
        "required": [p.name for p in named if p.default is p.empty],
    }


def answer(function: Function, arguments: dict[str, Any]) -> dict[str, Any]:
    """Call a function: `values`, each a number, None or a text that says what stood there instead; or what `failed`."""
    # JSON knows no tuples; the two completions that a judge compares are one.
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
    except MISTAKES as error:
        return {"failed": f"raised {_told(error)}", "trace": traceback.format_exc()}


def _are_pairs(values: list[Any]) -> bool:
    return bool(values) and isinstance(values[0], list)


def _value(value: Any) -> float | str | None:
    # Scalars of numpy and torch know how to become numbers of Python.
    plain = value.item() if hasattr(value, "item") else value
    if plain is None:
        return None
    if not isinstance(plain, Real):
        return _described(plain)
    number = float(plain)
    return number if math.isfinite(number) else str(number)


def _described(value: Any) -> str:
    return f"the {type(value).__name__} {reprlib.repr(value)}"


def _told(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}".removesuffix(": ")
