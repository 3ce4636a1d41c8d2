"""The reward function of both sides of `online.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def vowels(completions: Sequence[str], **_: Any) -> list[float]:
    """Return the number of vowels of each response, plus a small term for its length that avoids ties."""
    return [sum(letter in "aeiou" for letter in text) + len(text) / 1000 for text in completions]
