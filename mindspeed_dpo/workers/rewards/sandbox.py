"""Runs the user's functions in a separate process, which may fail, hang or die without harm to the run.

The process is spawned, not forked: a process with devices, collectives and threads cannot be forked safely. It runs
`sandbox_child`.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.json_object import JsonObject
from mindspeed_dpo.workers.rewards.sandbox_output_log import log_output
from mindspeed_dpo.workers.rewards.sandbox_replies import CallFailed, Replies, Value, foreign_message, values_of

logger = logging.getLogger(__name__)

Arguments = Mapping[str, Sequence[Any]]

# Limit for importing the user's modules; some load large libraries from slow disks.
START_TIMEOUT_S = 300.0
# How long the guard may take to end everything that the functions have started.
END_TIMEOUT_S = 10.0
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from mindspeed_dpo.workers.rewards.sandbox_child import main; main()"
)


class IsolatedFunctions:
    """Functions by dotted path in one child process, which is restarted when a call hangs or kills it."""

    def __init__(self, paths: Sequence[str], *, timeout_s: float) -> None:
        """Start the process and import the functions.

        Args:
            paths: Dotted paths, looked up in the working directory first.
            timeout_s: Limit for one call, in seconds.

        Raises:
            ValueError: Some cannot be imported or called; the message names all of them.
        """
        self._paths = list(dict.fromkeys(paths))
        self._timeout_s = timeout_s
        self._start()

    def call(self, path: str, arguments: Arguments) -> list[Value]:
        """Call a function with the arguments that it takes.

        Raises:
            CallFailed: The function raised, returned no list, timed out, or its process died.
            ValueError: The process could not be restarted.
        """
        names = self.names[path]
        accepted = {name: value for name, value in arguments.items() if names is None or name in names}
        try:
            reply = self._child.request([path, accepted], self._timeout_s)
            values = None if "failed" in reply else values_of(reply)
        except CallFailed:
            self._child.end()
            self._start()
            raise
        if values is None:
            cause = _printable(reply["failed"])
            logger.warning("%s %s\n%s", path, cause, _printable(reply.get("trace", "")))
            raise CallFailed(cause)
        return values

    def missing_arguments(self, available: Collection[str]) -> list[str]:
        """Return an error message for each required argument of a function that is not available."""
        return [
            f"{path} requires the argument {name}, which is not available: it may take {', '.join(available)}; "
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
            self._describe(self._child.receive(START_TIMEOUT_S))
        except CallFailed as failure:
            self._child.end()
            raise ValueError(f"{', '.join(self._paths)}: the import {failure.cause}") from failure

    def _describe(self, described: JsonObject) -> None:
        """Store the parameters of the functions as the child describes them."""
        try:
            functions = {path: described.section(path) for path in self._paths}
            problems = [
                f"{path} {_printable(about['problem'])}" for path, about in functions.items() if "problem" in about
            ]
            if problems:
                self._child.end()
                raise ValueError("; ".join(problems))
            parameters = {path: about.section("parameters") for path, about in functions.items()}
            self.names = {path: about.texts("names", None) for path, about in parameters.items()}
            self.required = {path: about.texts("required") for path, about in parameters.items()}
        except MalformedDataError as error:
            raise foreign_message(error) from error


class _Child:
    """A child process and the socket to it."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._link, theirs = multiprocessing.Pipe()
        search = [entry or os.getcwd() for entry in sys.path]
        words = [json.dumps(search), str(theirs.fileno()), json.dumps(paths)]
        self._process = subprocess.Popen(
            # Unbuffered, so that a function's prints appear even if it then hangs.
            [sys.executable, "-u", "-c", _BOOT, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        self._replies = Replies(self._link, self._process)
        assert self._process.stdout is not None
        log_output(self._process.stdout)
        # The process ends with this object, or with the interpreter.
        self.end = weakref.finalize(self, _end, self._process, self._link)

    def request(self, message: Any, timeout_s: float) -> JsonObject:
        """Send a message and wait for the reply."""
        data = json.dumps(message).encode()
        with suppress(BrokenPipeError, ConnectionResetError):  # waiting for the reply reports how it died
            self._link.send_bytes(data)
        return self.receive(timeout_s)

    def receive(self, timeout_s: float) -> JsonObject:
        """Wait for the next message; it raises what `Replies.receive` raises."""
        return self._replies.receive(timeout_s)


def _printable(text: object) -> str:
    """A text of the child that any stream can print."""
    return str(text).encode("utf-8", "backslashreplace").decode()


def _end(process: subprocess.Popen[bytes], link: Connection) -> None:
    link.close()
    # The guard ends the functions' process and everything that this one has started.
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_TIMEOUT_S)
    if process.returncode is None or process.returncode < 0:
        # It leads a process group; what it started may still run if it has been killed.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
