"""The socket of the user's functions: whatever arrives on it is a reply, or one error within bounds."""

from __future__ import annotations

import json
import random
import struct
import tracemalloc

import pytest

from mindspeed_dpo.workers.rewards.sandbox_replies import MAX_MESSAGE_BYTES, CallFailed
from tests.fuzz.reward_targets import REPLY, received

MORE_BYTES = 1 << 20


def message(content: object) -> bytes:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("!i", len(data)) + data


def test_a_reply_is_its_values() -> None:
    assert received(message(REPLY)) == REPLY["values"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"hello, world\n" * 100, "a message of 1751477356 bytes is announced"),
        (struct.pack("!i", -1) + bytes(8), "a message of -1 bytes is announced"),
        (struct.pack("!i", MAX_MESSAGE_BYTES + 1), "is announced"),
        (struct.pack("!i", MAX_MESSAGE_BYTES) + b"{}", "closed its connection"),
        (b"\0\0", "closed its connection"),
        (b"", "closed its connection"),
        (message(b""), "the message"),
        (message(b"\xff\xfe"), "not UTF-8"),
        (message(b"[" * 100_000), "nested"),
        (message(b"1" * 5000), "digits"),
        (message(["values"]), "must hold a JSON object"),
        (message({"values": 1}), "values must be a list"),
        (message({"value": [1]}), "lacks 'values'"),
        (message({"values": [[1]]}), "a value is a list"),
    ],
)
def test_other_bytes_are_an_error_of_the_call(data: bytes, words: str) -> None:
    tracemalloc.start()
    with pytest.raises(CallFailed, match=words) as failure:
        received(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert failure.value.is_lost
    assert len(str(failure.value)) < 500
    assert peak < MORE_BYTES + 20 * len(data)


def test_random_bytes_are_an_error_of_the_call() -> None:
    choose = random.Random(1)
    for _ in range(200):
        with pytest.raises(CallFailed):
            received(choose.randbytes(choose.randrange(64)))
