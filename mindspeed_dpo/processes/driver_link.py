"""The driver's connection to its supervisor: what to watch, which limits hold, and what the supervisor has seen end.

Messages are JSON objects, one a line, over a socket that both inherit from the fork. Without a supervisor, as in tests
and benchmarks, every message is dropped.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from mindspeed_dpo.processes.descendants import adopt_orphans, end_descendants

# How long to wait for the supervisor to name the cause of a failure. It looks about twice a second.
LOSS_REPORT_S = 1.5
END_TIMEOUT_S = 10.0


class DriverLink:
    """One end of the socket between the driver and its supervisor."""

    def __init__(self) -> None:
        """Start without a supervisor."""
        self._socket: socket.socket | None = None
        self._folders: list[str] = []
        self._loss = ""
        self._lost = threading.Event()
        self._listener: threading.Thread | None = None

    def open(self, connection: socket.socket) -> None:
        """Use a connection, and end this process and all that it started when the supervisor ends."""
        self._socket = connection
        adopt_orphans()
        self._listener = threading.Thread(target=self._listen, daemon=True, name="supervisor")
        self._listener.start()

    def watch_process(self, name: str, pid: int) -> None:
        """Let the supervisor end the run when a process ends, e.g. `watch_process("gcs_server", 4711)`."""
        self._send(watch=name, pid=pid)

    def watch_address(self, name: str, address: str) -> None:
        """Let the supervisor end the run when nothing accepts connections at `host:port` any more."""
        self._send(watch=name, address=address)

    def stop_watching(self) -> None:
        """End the watch: the processes are about to be stopped."""
        self._send(watch=None)

    def remove_at_end(self, folder: str) -> None:
        """Let the folder be removed after the last process of the run has ended."""
        self._folders.append(folder)
        self._send(folder=folder)

    def announce_graceful_stop(self) -> None:
        """Report that a signal is handled by finishing a step; the run is then not killed after the first signal."""
        self._send(graceful=True)

    def announce_result(self, code: int) -> None:
        """Report that the run's results are complete: whatever ends from now on, the exit code is this one."""
        self._send(result=code)

    def announce_end(self) -> None:
        """Report that the driver has said everything it has to say and exits.

        If the supervisor has ended, nobody else ends what is left of the run: this process then ends with that.
        """
        if not self._send(ended=True) and self._listener is not None:
            self._listener.join()

    @contextmanager
    def time_limit(self, seconds: float, message: str) -> Iterator[None]:
        """Let the supervisor end the run with a message if the block takes longer: for calls that cannot be bounded."""
        self._send(limit_s=seconds, message=message)
        try:
            yield
        finally:
            self._send(limit_s=None)

    def loss(self, wait_s: float = 0.0) -> str:
        """Return what ended although the run needs it, as a sentence; empty if nothing has.

        Args:
            wait_s: How long to wait for such a report, in seconds; for the cause of a failure that was seen here.
        """
        if self._socket is not None and wait_s:
            self._lost.wait(wait_s)
        return self._loss

    def _send(self, **message: Any) -> bool:
        """Send a message, and return whether there is a supervisor to read it."""
        if self._socket is not None:
            with suppress(OSError):  # the supervisor has ended; the listening thread reacts to that
                self._socket.sendall(json.dumps(message).encode() + b"\n")
                return True
        return False

    def _listen(self) -> None:
        assert self._socket is not None
        with suppress(OSError), self._socket.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                self._loss = json.loads(line)["lost"]
                self._lost.set()
        end_descendants(END_TIMEOUT_S)
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)


driver_link = DriverLink()
"""The link of this process."""
