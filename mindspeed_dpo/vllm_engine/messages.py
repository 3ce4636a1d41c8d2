"""Messages between a rollout worker and its vLLM process: JSON objects over a Unix socket, with file descriptors.

Both ends import this module, each in its own interpreter: it needs the standard library only. A message is a header of
8 bytes, its length, and a JSON object. File descriptors of shared memory travel with the header.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

_HEADER = struct.Struct("!Q")
MAX_MESSAGE_BYTES = 1 << 31
"""Limit for one message; a token takes about 30 bytes with its log-probability."""
MAX_DESCRIPTORS = 64
"""Limit for the file descriptors of one message; the kernel's is 253."""
_BLOCK_BYTES = 1 << 20


class MalformedMessage(Exception):
    """Something else than a message has arrived."""


def send_message(connection: socket.socket, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
    """Send a message, with file descriptors that the receiver gets copies of.

    Raises:
        OSError: The other end has closed.
    """
    content = json.dumps(message, allow_nan=False).encode()
    header = _HEADER.pack(len(content))
    if descriptors:
        socket.send_fds(connection, [header], list(descriptors))
    else:
        connection.sendall(header)
    connection.sendall(content)


def receive_message(connection: socket.socket) -> tuple[bytes, list[int]]:
    """Receive the content of a message, JSON that is not parsed yet, and its file descriptors.

    Raises:
        EOFError: The other end has closed.
        MalformedMessage: The announced length is impossible.
        OSError: The connection is lost, or a timeout that is set has passed.
    """
    header, descriptors, _, _ = socket.recv_fds(connection, _HEADER.size, MAX_DESCRIPTORS)
    header += _read(connection, _HEADER.size - len(header)) if header else b""
    if not header:
        raise EOFError
    (length,) = _HEADER.unpack(header)
    if length > MAX_MESSAGE_BYTES:
        raise MalformedMessage(f"a message of {length} bytes is announced")
    return _read(connection, length), descriptors


def _read(connection: socket.socket, count: int) -> bytes:
    content = bytearray()
    while len(content) < count:
        block = connection.recv(min(count - len(content), _BLOCK_BYTES))
        if not block:
            raise EOFError
        content += block
    return bytes(content)
