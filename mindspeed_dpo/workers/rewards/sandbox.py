"""The user's functions in a process of their own, which may fail, hang or die without harm to the run.

The process is started afresh, not forked: a fork of a process with devices, collectives and threads is not sound. It
lives as long as this object; `child` is its other end.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

logger = logging.getLogger(__name__)

Arguments = Mapping[str, Sequence[Any]]
Value = float | str | None
"""A number, None for no opinion, or words for something else that stood in a number's place."""

# Imports of the user's modules, before the first call; some load large libraries from slow disks.
START_TIMEOUT_S = 300.0
# How often a waiting call looks whether the process still lives: usually its socket tells, and at once.
LOOK_S = 0.2
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from mindspeed_dpo.workers.rewards.sandbox_child import main; main()"
)


class CallFailed(Exception):
    """A call gave no values.

    Attributes:
        cause: Completes the sentence "the function …".
        silent: The function was lost, by hanging or with its process, instead of saying what was wrong.
    """

    def __init__(self, cause: str, *, silent: bool = False) -> None:
        super().__init__(cause)
        self.cause = cause
        self.silent = silent


class IsolatedFunctions:
    """Functions by dotted path in one child process, which is started again when a call has cost it its life."""

    def __init__(self, paths: Sequence[str], *, timeout_s: float) -> None:
        """Start the process and import the functions.

        Args:
            paths: Dotted paths, looked up in the working directory first.
            timeout_s: Seconds that a call may take.

        Raises:
            ValueError: Some cannot be imported or called; the message names all of them.
        """
        self._paths = list(dict.fromkeys(paths))
        self._timeout_s = timeout_s
        self._start()

    def call(self, path: str, arguments: Arguments) -> list[Value]:
        """Call a function with those of the arguments that it takes.

        Raises:
            CallFailed: It raised, returned no list, took too long, or its process died.
            ValueError: The process could not be started again.
        """
        names = self.names[path]
        wanted = {name: value for name, value in arguments.items() if names is None or name in names}
        try:
            reply = self._child.ask([path, wanted], self._timeout_s)
        except CallFailed:
            self._child.end()
            self._start()
            raise
        if "failed" in reply:
            logger.warning("%s %s\n%s", path, reply["failed"], reply.get("trace", ""))
            raise CallFailed(reply["failed"])
        return list(reply["values"])

    def lacking(self, available: Collection[str]) -> list[str]:
        """What keeps functions from being called with the arguments available, one sentence for each."""
        return [
            f"{path} asks for {name}, which it cannot get: it may take {', '.join(available)}; "
            "list further columns of the data in dataset_additional_keys"
            for path in self._paths
            for name in self.required[path]
            if name not in available
        ]

    def close(self) -> None:
        """End the process."""
        self._child.end()

    def _start(self) -> None:
        self._child = _Child(self._paths)
        try:
            told = self._child.hear(START_TIMEOUT_S)
        except CallFailed as failure:
            self._child.end()
            raise ValueError(f"{', '.join(self._paths)}: the import {failure.cause}") from failure
        problems = [f"{path} {about['problem']}" for path, about in told.items() if "problem" in about]
        if problems:
            self._child.end()
            raise ValueError("; ".join(problems))
        self.names = {path: about["takes"]["names"] for path, about in told.items()}
        self.required = {path: about["takes"]["required"] for path, about in told.items()}


class _Child:
    """One process and the socket to it."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._link, theirs = multiprocessing.Pipe()
        search = [entry or os.getcwd() for entry in sys.path]
        words = [json.dumps(search), str(theirs.fileno()), json.dumps(paths)]
        self._process = subprocess.Popen(
            # Unbuffered: what a function prints is to be seen even if it then hangs.
            [sys.executable, "-u", "-c", _BOOT, *words],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        # Whoever lets go of this object, or leaves the interpreter, ends the process too.
        self.end = weakref.finalize(self, _end, self._process, self._link)

    def ask(self, message: Any, timeout_s: float) -> dict[str, Any]:
        """Send a message and wait for the reply."""
        data = json.dumps(message).encode()
        with suppress(BrokenPipeError, ConnectionResetError):  # the wait for the reply finds out how it died
            self._link.send_bytes(data)
        return self.hear(timeout_s)

    def hear(self, timeout_s: float) -> dict[str, Any]:
        """Wait for the next message.

        Raises:
            CallFailed: There was none in time, or the process died.
        """
        deadline = time.monotonic() + timeout_s
        while not self._link.poll(min(LOOK_S, max(0.0, deadline - time.monotonic()))):
            if self._process.poll() is not None:
                raise self._death()
            if time.monotonic() >= deadline:
                raise CallFailed(f"did not return within {timeout_s:g} s", silent=True)
        try:
            return dict(json.loads(self._link.recv_bytes()))
        except (EOFError, OSError) as error:
            raise self._death() from error

    def _death(self) -> CallFailed:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(LOOK_S)
        code = self._process.returncode
        how = "closed its connection" if code is None else f"signal {-code}" if code < 0 else f"exit code {code}"
        return CallFailed(f"ended its process ({how})", silent=True)


def _end(process: subprocess.Popen[bytes], link: Connection) -> None:
    link.close()
    # It leads a group, of which programs may be left even where it has died itself.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
