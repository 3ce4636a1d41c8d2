"""Determines what a chat template writes after a message of the assistant, by rendering samples.

The texts differ for the last message of a dialogue and for one that others follow: Phi-3's template ends a dialogue
with another token, and GLM-4's ends messages with nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mindspeed_dpo.data.tokenization.examples import RowDropped, Turn
from mindspeed_dpo.data.tokenization.prompt_boundary import common_length

_QUESTION = Turn("user", "Q")


@dataclass(frozen=True)
class TurnEnds:
    r"""The ends of messages of the assistant, as texts.

    Example:
        For ChatML, TurnEnds(last="<|im_end|>\n", middle="<|im_end|>\n", last_token=10, middle_token=10)

    Attributes:
        last: All that follows the last message.
        middle: What of that also follows a message in the middle.
        last_token: Number of characters of `last` up to its first special token, that token included; 0 without one.
        middle_token: Likewise for `middle`.
    """

    last: str
    middle: str
    last_token: int
    middle_token: int

    @classmethod
    def probe(
        cls,
        render: Callable[[Sequence[Turn]], str],
        ids_of: Callable[[str], list[int]],
        special_ids: frozenset[int],
    ) -> TurnEnds:
        """Find the ends.

        Args:
            render: Renders turns, or raises `RowDropped`.
            ids_of: Token ids of a text.
            special_ids: Ids of special tokens.
        """
        last = _text_after(render)
        following = _text_after(render, Turn("user", "Q2"))
        boundaries = _token_boundaries(last, ids_of)
        middle = next((last[:end] for end in reversed(boundaries) if following.startswith(last[:end])), "")
        token = next((end for end in boundaries[1:] if ids_of(last[:end])[-1] in special_ids), 0)
        return cls(last, middle, token, token if token <= len(middle) else 0)

    def length(self, is_last: bool, only_token: bool) -> int:
        """Return the number of characters of an end that are scored."""
        if only_token:
            return self.last_token if is_last else self.middle_token
        return len(self.last if is_last else self.middle)


def _text_after(render: Callable[[Sequence[Turn]], str], *following: Turn) -> str:
    """Return the text after the content of a response; empty if the template rejects the dialogue or the content."""
    try:
        one, other = (render([_QUESTION, Turn("assistant", content), *following]) for content in ("A", "B"))
    except RowDropped:
        return ""
    return "" if one == other else one[len(one) - common_length(one[::-1], other[::-1]) :]


def _token_boundaries(text: str, ids_of: Callable[[str], list[int]]) -> list[int]:
    """Return the numbers of characters after which a text can be cut without changing the tokens before."""
    ids = ids_of(text) if text else []
    ends = [0]
    for end in range(1, len(text) + 1):
        part = ids_of(text[:end])
        if part == ids[: len(part)] and len(part) > len(ids_of(text[: ends[-1]])):
            ends.append(end)
    return ends
