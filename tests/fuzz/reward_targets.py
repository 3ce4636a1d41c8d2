"""What a reward process sends: replies, and anything else that the user's code writes to the same socket."""

from __future__ import annotations

import json
import multiprocessing
import os
import struct
import subprocess
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

from mindspeed_dpo.untrusted.json_text import parse_json_object
from mindspeed_dpo.workers.rewards.sandbox_replies import Replies, values_of
from tests.fuzz.target import JSON, Target

REPLY = {"values": [1.0, None, "nan"], "trace": "x"}


class RunningProcess:
    """A process that does not end."""

    returncode = None

    def poll(self) -> None:
        """It runs."""

    def wait(self, timeout: float) -> None:
        """It does not end in this time, however long that is."""
        raise subprocess.TimeoutExpired("process", timeout)


def write_reply(root: Path) -> None:
    """Write a reply alone and with its length."""
    data = json.dumps(REPLY).encode()
    (root / "reply.json").write_bytes(data)
    (root / "message.bin").write_bytes(struct.pack("!i", len(data)) + data)


def received(data: bytes) -> Any:
    """What arrives if the other end of the socket writes these bytes and closes."""
    ours, theirs = multiprocessing.Pipe()
    sender = threading.Thread(target=_send, args=(theirs, data), daemon=True)
    sender.start()
    with ours:
        return values_of(Replies(ours, cast(Any, RunningProcess())).receive(5))


def _send(link: Connection, data: bytes) -> None:
    with link, suppress(OSError):
        while data:
            data = data[os.write(link.fileno(), data) :]


REWARD_TARGETS = (
    Target(
        "reply", "reply.json", lambda root: values_of(parse_json_object((root / "reply.json").read_bytes(), "r")), JSON
    ),
    Target("message", "message.bin", lambda root: received((root / "message.bin").read_bytes())),
)
