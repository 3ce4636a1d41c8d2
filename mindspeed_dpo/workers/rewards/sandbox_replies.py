"""Replies of the process that runs the user's functions: JSON behind its length, on a socket.

The user's code has the other end of the socket as well, so that any bytes may arrive: their number is bounded before
they are read, and whatever is not a reply is an error of the call.
"""

from __future__ import annotations

import os
import struct
import subprocess
import time
from contextlib import suppress
from multiprocessing.connection import Connection

from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.json_object import JsonObject
from mindspeed_dpo.untrusted.json_text import parse_json_object

Value = float | str | None
"""A number, None for no opinion, or a description of anything else that was returned instead of a number."""

# Interval at which a waiting call checks that the process is alive; usually its socket reports that at once.
POLL_INTERVAL_S = 0.2
EXIT_TIMEOUT_S = 5.0
"""Limit for the exit of a process that has closed its connection, which a busy machine delays."""
MAX_MESSAGE_BYTES = 1 << 28
"""Limit for one reply; a number takes about 20 bytes."""
_HEADER = struct.Struct("!i")
"""Length of a message, as `multiprocessing.connection` sends it."""
_BLOCK_BYTES = 1 << 16


class CallFailed(Exception):
    """A call returned no values.

    Attributes:
        cause: Completes the sentence "the function …".
        is_lost: Whether the function hung or its process died, rather than raising an error.
    """

    def __init__(self, cause: str, *, is_lost: bool = False) -> None:
        super().__init__(cause)
        self.cause = cause
        self.is_lost = is_lost


class Replies:
    """The end of the socket at which replies arrive, and the process that sends them."""

    def __init__(self, link: Connection, process: subprocess.Popen[bytes]) -> None:
        """Receive from a socket.

        Args:
            link: The socket.
            process: The process at its other end, whose end is reported.
        """
        self._link, self._process = link, process

    def receive(self, timeout_s: float) -> JsonObject:
        """Wait for the next message.

        Raises:
            CallFailed: No message arrived in time, the process died, or what arrived is no message.
        """
        deadline_s = time.monotonic() + timeout_s
        (num_bytes,) = _HEADER.unpack(self._read(_HEADER.size, deadline_s, timeout_s))
        if not 0 <= num_bytes <= MAX_MESSAGE_BYTES:
            raise foreign_message(f"a message of {num_bytes} bytes is announced")
        try:
            return parse_json_object(self._read(num_bytes, deadline_s, timeout_s), "the message")
        except MalformedDataError as error:
            raise foreign_message(error) from error

    def _read(self, num_bytes: int, deadline_s: float, timeout_s: float) -> bytes:
        """Read so many bytes of the socket, to which the user's code may have written as well."""
        content = bytearray()
        while len(content) < num_bytes:
            self._wait_until_readable(deadline_s, timeout_s)
            try:
                block = os.read(self._link.fileno(), min(num_bytes - len(content), _BLOCK_BYTES))
            except OSError as error:
                raise self._death() from error
            if not block:
                raise self._death()
            content += block
        return bytes(content)

    def _wait_until_readable(self, deadline_s: float, timeout_s: float) -> None:
        while not self._link.poll(min(POLL_INTERVAL_S, max(0.0, deadline_s - time.monotonic()))):
            if self._process.poll() is not None:
                raise self._death()
            if time.monotonic() >= deadline_s:
                raise CallFailed(f"did not return within {timeout_s:g} s", is_lost=True)

    def _death(self) -> CallFailed:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(EXIT_TIMEOUT_S)
        code = self._process.returncode
        how = "closed its connection" if code is None else f"signal {-code}" if code < 0 else f"exit code {code}"
        return CallFailed(f"ended its process ({how})", is_lost=True)


def values_of(reply: JsonObject) -> list[Value]:
    """The values of a reply, in which the child describes what is not a number.

    Raises:
        CallFailed: The reply has no values, or a value is neither a number nor a text.
    """
    try:
        values = reply.sequence("values")
    except MalformedDataError as error:
        raise foreign_message(error) from error
    for value in values:
        if value is not None and type(value) not in (int, float, str):
            raise foreign_message(f"a value is a {type(value).__name__}")
    return values


def foreign_message(reason: object) -> CallFailed:
    """The error of a call for which something else arrived than a reply."""
    return CallFailed(f"wrote to the socket on which its results are sent ({reason})", is_lost=True)
