"""The parts of a packed row: every row and every label lies in one of them, beside each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mindspeed_dpo.batches import PreferenceBatch, RowPart
from mindspeed_dpo.data.batching.packing_and_label_shift import pack

TOKENS = st.lists(st.integers(0, 9), min_size=1, max_size=6)
PROMPTS = st.lists(st.tuples(TOKENS, TOKENS, TOKENS), min_size=1, max_size=4)


@given(rows=PROMPTS, size=st.integers(2, 5), share_prompt=st.booleans())
def test_parts_hold_every_row_and_every_label_once(
    rows: list[tuple[list[int], list[int], list[int]]], size: int, share_prompt: bool
) -> None:
    batch = PreferenceBatch.from_lists([row[0] for row in rows], [row[1:] for row in rows])
    complete = pack(batch, share_prompt=share_prompt, multiple_of=size)
    tokens, joined = [], torch.zeros(len(complete.labels), 2)
    for rank in range(size):
        part = complete.for_context_rank(rank, size).part
        assert part is not None and len(part.labels) >= 1
        tokens.append(part.cut(complete.tokens))
        # What a row knows of its label: the label and the row itself.
        values = torch.stack((part.labels, part.score_rows + part.start), 1).float()
        joined += part.scatter(values, len(complete.labels))
        last, here = part.local_rows(complete.last_rows)
        assert torch.equal(part.cut(complete.tokens)[last][here], complete.tokens[complete.last_rows][here])
    assert torch.equal(torch.cat(tokens), complete.tokens)
    assert torch.equal(joined, torch.stack((complete.labels, complete.score_rows), 1).float())


def test_one_rank_has_the_row_as_it_is() -> None:
    complete = pack(PreferenceBatch.from_lists([[1]], [[[2], [3]]]))
    assert complete.for_context_rank(0, 1) is complete and complete.part is None


def test_unequal_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="a row of 5 tokens cannot be split into 2 equal parts"):
        RowPart.of(5, torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), 0, 2)
