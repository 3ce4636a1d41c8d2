"""A worker's share of the data: no row lost over the replicas, references beside their rows, foreign tokens named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mindspeed_dpo.batches import PackedBatch, PreferenceBatch
from mindspeed_dpo.parallel.topology import Topology
from mindspeed_dpo.workers.feed import Feed


@dataclass
class NumberedRows:
    """A dataset whose tokens tell the row: row r has the prompt [r] * 2 and the responses [r] and [r, r]."""

    def batch(self, rows: Sequence[int]) -> PreferenceBatch:
        return PreferenceBatch.from_lists([[r, r] for r in rows], [[[r], [r, r]] for r in rows])


def feed(dp: int = 1, dp_rank: int = 0, tp: int = 1, cp: int = 1, **settings: Any) -> Feed:
    values = {
        "micro_batch_size": 2, "share_prompt": True, "sequence_parallel": False, "vocab_size": 100, **settings,
    }  # fmt: skip
    place = Topology(tp=tp, dp=dp, cp=cp).place((dp_rank * cp + cp - 1) * tp)
    return Feed(dataset=NumberedRows(), place=place, device=torch.device("cpu"), **values)  # type: ignore[arg-type]


def rows_of(batches: Sequence[PackedBatch]) -> list[int]:
    """The row of each real pair, told by its labels."""
    rows = []
    for batch in batches:
        labels = batch.labels.view(-1, 3)
        assert bool((labels == labels[:, :1]).all())
        rows += [int(label) for label, weight in zip(labels[:, 0], batch.weights, strict=True) if weight]
    return rows


@given(
    rows=st.lists(st.integers(0, 99), min_size=1, max_size=11),
    dp=st.integers(1, 4),
    micro_batch_size=st.integers(1, 4),
    share_prompt=st.booleans(),
)
def test_replicas_share_the_rows_in_order_without_losing_one(
    rows: list[int], dp: int, micro_batch_size: int, share_prompt: bool
) -> None:
    references = np.stack([np.arange(len(rows)), -np.arange(len(rows))], 1).astype(np.float32)
    found, seen = [], []
    for rank in range(dp):
        batches = feed(dp, rank, micro_batch_size=micro_batch_size, share_prompt=share_prompt).micro_batches(
            rows, references
        )
        assert batches and all(1 <= len(batch.weights) <= micro_batch_size for batch in batches)
        found += rows_of(batches)
        seen += [ref for b in batches for ref, weight in zip(b.ref_logps.tolist(), b.weights, strict=True) if weight]
    assert found == rows
    assert seen == references.tolist()


def test_a_stream_gives_the_same_micro_batches_one_by_one() -> None:
    rows = [5, 6, 7]
    assert [rows_of([batch]) for batch in feed().stream(rows)] == [rows_of([b]) for b in feed().micro_batches(rows)]
    assert rows_of([next(feed(vocab_size=8).stream([1, 2, 99]))]) == [1, 2]


def test_a_replica_without_rows_gets_one_pair_that_counts_nothing() -> None:
    (batch,) = feed(dp=3, dp_rank=2).micro_batches([7, 8])
    assert batch.weights.tolist() == [0.0]
    assert len(batch.labels) == 3


def test_without_references_they_are_zero() -> None:
    (batch,) = feed().micro_batches([7, 8])
    assert batch.ref_logps.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(("sequence_parallel", "length"), [(True, 8), (False, 5)])
def test_rows_divide_by_the_tensor_ranks_that_split_them(sequence_parallel: bool, length: int) -> None:
    (batch,) = feed(tp=4, sequence_parallel=sequence_parallel).micro_batches([7])
    assert len(batch.tokens) == length


@pytest.mark.parametrize(("sequence_parallel", "length"), [(True, 8), (False, 6)])
def test_rows_divide_by_the_ranks_that_share_them_and_the_last_has_the_end(
    sequence_parallel: bool, length: int
) -> None:
    (batch,) = feed(tp=4, cp=2, sequence_parallel=sequence_parallel).micro_batches([7])
    assert len(batch.tokens) == length
    assert batch.part is not None and (batch.part.start, batch.part.stop) == (length // 2, length)


def test_prompts_are_repeated_where_sharing_is_off() -> None:
    (shared,), (repeated,) = (feed(share_prompt=flag).micro_batches([7]) for flag in (True, False))
    assert (len(shared.tokens), len(repeated.tokens)) == (2 + 3, 2 * 2 + 3)


def test_tokens_the_model_does_not_know_are_refused_with_their_rows() -> None:
    sentence = r"rows \[3, 40\] hold token 40, but the model has vocab_size=40: .* another tokenizer"
    with pytest.raises(ValueError, match=sentence):
        feed(vocab_size=40).micro_batches([1, 2, 3, 40])
    assert rows_of(feed(vocab_size=41).micro_batches([1, 2, 3, 40])) == [1, 2, 3, 40]
