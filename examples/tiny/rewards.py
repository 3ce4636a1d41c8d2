"""A reward by rule for the tiny model: sing! An answer is good as far as it is made of vowels.

In a configuration: reward_functions: [examples.tiny.rewards.vowels]. Whatever a signature names is handed over, one
element per response; docs/rewards.md has the list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

VOWELS = frozenset("aeiou")
FULL_LENGTH = 8
"""Characters of the shortest answer that can have the full reward: a short one shall not be an easy one."""


def vowels(completions: Sequence[str], **_: Any) -> list[float]:
    """Share of vowels in each response, from 0 to 1; characters missing to a length of 8 count as no vowels.

    A model with random weights gets about 0.02, and nobody gets more than 1.
    """
    return [sum(letter in VOWELS for letter in text) / max(len(text), FULL_LENGTH) for text in completions]
