"""Processes and addresses that a run cannot do without, as its supervisor watches them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Protocol

from mindspeed_dpo.processes.descendants import ENDED, process_state

PROBE_INTERVAL_S = 2.0
PROBE_TIMEOUT_S = 2.0
# A host under load may miss one connection attempt.
MAX_FAILED_PROBES = 3


class Watched(Protocol):
    """Something that a run needs to go on."""

    def loss(self) -> str:
        """Return the sentence that reports its end; empty while it lives."""


class WatchedProcess:
    """A process on this machine, anybody's child."""

    def __init__(self, name: str, pid: int) -> None:
        """Watch a process that runs now."""
        self._name, self._pid = name, pid
        state = process_state(pid)
        self._started = None if state is None else state.started

    def loss(self) -> str:
        """Return a sentence once the process has ended."""
        state = process_state(self._pid)
        # Another process may have got the number by now.
        if state is not None and state.started == self._started and state.letter not in ENDED:
            return ""
        return f"{self._name} (process {self._pid}) died: killed by a signal, out of memory, or crashed"


class WatchedAddress:
    """A server that accepts connections at `host:port`, on this machine or another."""

    def __init__(self, name: str, address: str, notify: Callable[[], object]) -> None:
        """Probe the address from a thread of its own.

        Args:
            name: Name of the server, for the sentence.
            address: `host:port`.
            notify: Called when the server no longer accepts connections.
        """
        self._sentence = ""
        self._name, self._address, self._notify = name, address, notify
        self._ended = threading.Event()
        threading.Thread(target=self._probe, daemon=True, name=f"probe of {address}").start()

    def loss(self) -> str:
        """Return a sentence once several attempts in a row have failed."""
        return self._sentence

    def stop(self) -> None:
        """End the probes."""
        self._ended.set()

    def _probe(self) -> None:
        failed = 0
        while not self._ended.wait(PROBE_INTERVAL_S):
            error = connection_error(self._address, PROBE_TIMEOUT_S)
            failed = failed + 1 if error else 0
            if failed >= MAX_FAILED_PROBES:
                self._sentence = f"{self._name} at {self._address} no longer responds ({error})"
                self._notify()
                return


def connection_error(address: str, timeout_s: float) -> str:
    """Return why no connection to `host:port` is accepted; empty if one is."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s).close()
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)
    return ""
