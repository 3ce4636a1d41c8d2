"""A rule-based reward for the tiny model: the share of vowels in a response.

In a configuration: reward_functions: [examples.tiny.rewards.vowels]. docs/rewards.md lists the arguments that a reward
function can name in its signature; each has one element per response.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

VOWELS = frozenset("aeiou")
FULL_LENGTH = 8
"""Minimum length of a response with the full reward, in characters: short responses have no advantage."""


def vowels(completions: Sequence[str], **_: Any) -> list[float]:
    """Return the share of vowels in each response, from 0 to 1; responses are padded with non-vowels to 8 characters.

    A model with random weights scores about 0.02; the maximum is 1.
    """
    return [sum(letter in VOWELS for letter in text) / max(len(text), FULL_LENGTH) for text in completions]
