"""The boundary of prompt and responses, where the same text is tokenized alone and with each response.

Responses start at the first position at which the ids of either sequence differ from those of the prompt, so both
sequences of a pair have exactly the same prompt ids.
"""

from __future__ import annotations

from collections.abc import Sequence

from mindspeed_dpo.data.tokenization.examples import PairTokens


def split_at_divergence(prompt: list[int], chosen: list[int], rejected: list[int]) -> PairTokens:
    """Split both sequences where either first differs from the prompt; later prompt tokens belong to the responses."""
    cut = min(common_length(prompt, chosen), common_length(prompt, rejected))
    return PairTokens(chosen[:cut], chosen[cut:], rejected[cut:], prompt_tail=len(prompt) - cut)


def common_length(one: Sequence[object], other: Sequence[object]) -> int:
    """Return the number of items at the start in which two sequences agree."""
    for position, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return position
    return min(len(one), len(other))
