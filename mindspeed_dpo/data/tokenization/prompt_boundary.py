"""The boundary of prompt and responses, where the same text is tokenized alone and with each response.

Responses start at the first position at which the ids of one of the sequences differ from those of the prompt, so all
sequences of a row have exactly the same prompt ids.
"""

from __future__ import annotations

from collections.abc import Sequence

from mindspeed_dpo.data.tokenization.examples import RankedTokens


def split_at_divergence(prompt: list[int], sequences: Sequence[list[int]]) -> RankedTokens:
    """Split all sequences where one first differs from the prompt; later prompt tokens belong to the responses."""
    cut = min(common_length(prompt, sequence) for sequence in sequences)
    responses = [sequence[cut:] for sequence in sequences]
    return RankedTokens(prompt[:cut], responses, [None] * len(responses), prompt_tail=len(prompt) - cut)


def common_length(one: Sequence[object], other: Sequence[object]) -> int:
    """Return the number of items at the start in which two sequences agree."""
    for position, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return position
    return min(len(one), len(other))
