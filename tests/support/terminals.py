"""Commands on a terminal: what they write to one, which is not what they write to a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.support.commands import Running

COLUMNS, LINES = 80, 30
_CONTROL = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")


def run_on_terminal(arguments: Sequence[str | Path]) -> str:
    """Run a program of the repository, which must end well, and return all that the terminal received."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    received: list[bytes] = []
    reader = threading.Thread(target=_read, args=(ours, received))
    reader.start()
    try:
        with Running(arguments, terminal=theirs, TERM="xterm-256color") as running:
            os.close(theirs)
            code = running.finish().code
        reader.join()
    finally:
        os.close(ours)
    text = b"".join(received).decode()
    assert code == 0, f"{arguments} ended with {code}:\n{text}"
    return text


def lines_of(text: str) -> list[str]:
    """Return the lines without control sequences, as they are on the terminal if nothing replaces them."""
    return [line.rpartition("\r")[2] for line in _CONTROL.sub("", text.replace("\r\n", "\n")).split("\n")]


def _read(end: int, received: list[bytes]) -> None:
    # Reading fails once no process has the terminal open any more.
    with suppress(OSError):
        while data := os.read(end, 65536):
            received.append(data)
