"""Keeps the responses of a row as one ranking, from the best to the worst, for `pair_selection: list`.

A ranking is strict: of responses with equal scores the first is kept. What is left out is counted with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable

from mindspeed_dpo.data.preprocessing.pair_candidates import ordered_by_score
from mindspeed_dpo.data.preprocessing.responses import common_start
from mindspeed_dpo.data.tokenization.examples import Prompt, RankedExample, RankedTokens, RowDropped, Turns

LIST = "list"
"""Value of `pair_selection` with which rankings are kept."""

LeftOut = list[RowDropped]


def rank_responses(example: RankedExample, min_margin: float) -> tuple[RankedExample, LeftOut]:
    """Return the responses of a row from the best to the worst, and why others are left out.

    Args:
        example: The responses and their scores; those without a score are not counted.
        min_margin: A response is left out if the next better one that is kept has a score less than this above its own.

    Returns:
        The ranking, and the reason of every response that is left out. Messages with which all responses start become
        part of the prompt. With fewer than two responses it is no ranking.

    Raises:
        RowDropped: Fewer than two responses have a score, or they do not branch at a message of the assistant.
    """
    kept: list[tuple[Turns, float]] = []
    left_out: LeftOut = []
    for index in ordered_by_score(example):
        response, score = example.responses[index], example.scores[index]
        assert score is not None
        reason = _reason(response, score, kept, min_margin)
        if reason is None:
            kept.append((response, score))
        else:
            left_out.append(reason)
    if len(kept) < 2:
        return RankedExample(example.prompt, (), ()), left_out
    responses, scores = zip(*kept, strict=True)
    start = min(common_start(responses[0], other) for other in responses[1:])
    prompt = Prompt((*example.prompt.turns, *responses[0][:start]), example.prompt.system, example.prompt.tools)
    return RankedExample(prompt, tuple(response[start:] for response in responses), scores), left_out


def _reason(response: Turns, score: float, better: list[tuple[Turns, float]], min_margin: float) -> RowDropped | None:
    """Return why a response cannot follow better ones; None if it can."""
    if any(turn.is_empty for turn in response if turn.role == "assistant"):
        return RowDropped("empty_response", f"the response with score {score:g} is empty")
    if response in (other for other, _ in better):
        return RowDropped("identical_responses", f"the response with score {score:g} is a better one, too")
    if not better:
        return None
    gap = better[-1][1] - score
    if gap == 0:
        return RowDropped("tie", f"two responses have the score {score:g}")
    if gap < min_margin:
        return RowDropped("small_margin", f"{gap:g}, min_score_margin is {min_margin:g}")
    return None


def usable_responses(tokens: RankedTokens, seq_length: int | None) -> tuple[list[int], LeftOut]:
    """Return the positions of the responses whose tokens can be used, and why others are left out.

    Args:
        tokens: A prompt and its responses.
        seq_length: A sequence with as many tokens is too long; None for no limit.
    """
    kept: list[int] = []
    left_out: LeftOut = []
    for position, ids in enumerate(tokens.responses):
        length = len(tokens.prompt) + len(ids)
        if not ids:
            left_out.append(RowDropped("empty_response", "a response has no tokens"))
        elif any(ids == tokens.responses[other] for other in kept):
            left_out.append(RowDropped("identical_responses", "two responses have the same tokens"))
        elif seq_length is not None and length >= seq_length:
            left_out.append(RowDropped("too_long", f"{length} tokens, seq_length is {seq_length}"))
        else:
            kept.append(position)
    return kept, left_out


def ranking_columns(
    prompt: list[int], responses: list[list[int]], labels: list[list[int]], ignore_index: int
) -> Iterable[list[int]]:
    """Yield the values of `RANKING_COLUMNS` for responses from the best to the worst."""
    ignored = [ignore_index] * len(prompt)
    for end in (0, -1):
        yield prompt + responses[end]
        yield ignored + labels[end]
    for between in (responses[1:-1], labels[1:-1]):
        yield [token for ids in between for token in ids]
    yield [len(ids) for ids in responses[1:-1]]
