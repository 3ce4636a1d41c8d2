"""The reward that both sides of `online.py` learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def vowels(completions: Sequence[str], **_: Any) -> list[float]:
    """Vowels of each response; length decides between equals, as a pair of equals would be left out."""
    return [sum(letter in "aeiou" for letter in text) + len(text) / 1000 for text in completions]
