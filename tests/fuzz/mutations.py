"""Mutations of bytes that know nothing of their format, and the choice among them and those that do."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

Mutation = Callable[[bytes, random.Random], bytes]

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1)


def flip_bits(data: bytes, choose: random.Random) -> bytes:
    """Flip one to eight bits."""
    changed = bytearray(data)
    for _ in range(choose.choice((1, 1, 2, 8))):
        if changed:
            changed[choose.randrange(len(changed))] ^= 1 << choose.randrange(8)
    return bytes(changed)


def truncate(data: bytes, choose: random.Random) -> bytes:
    """Drop the end."""
    return data[: choose.randrange(len(data) + 1)]


def insert(data: bytes, choose: random.Random) -> bytes:
    """Insert random bytes."""
    at = choose.randrange(len(data) + 1)
    return data[:at] + choose.randbytes(choose.choice((1, 2, 8, 100))) + data[at:]


def delete(data: bytes, choose: random.Random) -> bytes:
    """Delete a piece."""
    start, length = choose.randrange(len(data) + 1), choose.choice((1, 2, 8, 100))
    return data[:start] + data[start + length :]


def duplicate(data: bytes, choose: random.Random) -> bytes:
    """Repeat a piece, here or elsewhere."""
    start, length = choose.randrange(len(data) + 1), choose.choice((1, 4, 16, 300))
    at = choose.choice((start, choose.randrange(len(data) + 1)))
    return data[:at] + data[start : start + length] * choose.choice((1, 2, 50)) + data[at:]


def overwrite(data: bytes, choose: random.Random) -> bytes:
    """Put an extreme number over the bytes at an aligned place."""
    number, layout = choose.choice(EXTREMES), choose.choice("BHIQ")
    packed = struct.pack(f"<{layout}", number & ((1 << (8 * struct.calcsize(layout))) - 1))
    at = choose.randrange(len(data) + 1) // len(packed) * len(packed)
    return data[:at] + packed + data[at + len(packed) :]


def zeros(data: bytes, choose: random.Random) -> bytes:
    """Lose a piece as a disk does, which leaves zeros."""
    start, length = choose.randrange(len(data) + 1), choose.choice((8, 64, 512))
    return data[:start] + bytes(len(data[start : start + length])) + data[start + length :]


PLAIN: tuple[Mutation, ...] = (flip_bits, flip_bits, truncate, insert, delete, duplicate, overwrite, overwrite, zeros)


def mutate(data: bytes, choose: random.Random, structural: Sequence[Mutation] = ()) -> bytes:
    """Apply one to three mutations; half of them know the format, where there are such."""
    for _ in range(choose.choice((1, 1, 2, 3))):
        mutations = structural if structural and choose.random() < 0.5 else PLAIN
        data = choose.choice(mutations)(data, choose)
    return data
