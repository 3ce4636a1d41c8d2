"""The heartbeat of the vLLM process: while it serves a request, a thread says that it runs and how far it has come.

Runs in the interpreter that vLLM is installed in; needs the standard library only.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import Any

from mindspeed_dpo.vllm_engine.messages import send_message

INTERVAL_S = 1.0


class Heartbeat:
    """Sends `{"alive": completed}` once a second during a request, and the answers, one message at a time."""

    def __init__(self, connection: socket.socket) -> None:
        """Start the thread, which says nothing before `begin`."""
        self._connection = connection
        self._sending = threading.Lock()
        self._serves = threading.Event()
        self._completed = 0
        threading.Thread(target=self._beat, daemon=True).start()

    def begin(self) -> None:
        """Begin to serve a request."""
        self._serves.set()

    def advance(self) -> None:
        """Count a completed step, which is progress."""
        self._completed += 1

    def answer(self, message: dict[str, Any]) -> None:
        """Send the answer, after which there are no beats until the next request."""
        with self._sending:
            self._serves.clear()
            send_message(self._connection, message)

    def _beat(self) -> None:
        # Where the worker has ended, another thread ends this process.
        with suppress(OSError):
            while self._serves.wait():
                with self._sending:
                    if self._serves.is_set():
                        send_message(self._connection, {"alive": self._completed})
                time.sleep(INTERVAL_S)
