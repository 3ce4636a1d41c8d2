"""Selects the scored tokens of a response: those of the messages of the assistant, parts of a rendered text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mindspeed_dpo.data.tokenization.assistant_spans import Span
from mindspeed_dpo.data.tokenization.examples import RowDropped
from mindspeed_dpo.data.tokenization.prompt_boundary import common_length


@dataclass(frozen=True)
class ScoredResponse:
    """The tokens of a response and which of them are scored.

    Example:
        ScoredResponse(ids=[7, 8, 2, 5, 9, 2], scored=[True, True, True, False, True, True], is_changed=False)

    Attributes:
        ids: Token ids up to the end of the last message.
        scored: Whether each of them is scored; None if all are.
        is_changed: Whether a message is rendered differently once others follow.
    """

    ids: list[int]
    scored: list[bool] | None
    is_changed: bool


def scored_response(
    text: str, ids: list[int], cut: int, spans: Sequence[Span], ids_of: Callable[[str], list[int]]
) -> ScoredResponse:
    """Return the response of a rendered dialogue.

    Args:
        text: The text of the dialogue.
        ids: Its token ids.
        cut: Number of tokens of the prompt; the first message is scored from there on.
        spans: The messages of the assistant in the response.
        ids_of: Token ids of a text.

    Raises:
        RowDropped: The first or the last message has no tokens.
    """

    def num_tokens(position: int) -> int:
        return len(ids) if position == len(text) else common_length(ids_of(text[:position]), ids)

    starts = [cut, *(num_tokens(span.start) for span in spans[1:])]
    ends = [num_tokens(span.end) for span in spans]
    if starts[0] >= ends[0] or starts[-1] >= ends[-1]:
        raise RowDropped("empty_response", "a message of the assistant has no tokens")
    scored = [False] * ends[-1]
    for start, end in zip(starts, ends, strict=True):
        scored[start:end] = [True] * (end - start)
    mask = scored[cut:]
    is_changed = any(span.is_changed for span in spans)
    return ScoredResponse(ids[cut : ends[-1]], None if all(mask) else mask, is_changed)
