"""A worker's share of the data: no row lost over the replicas, references beside their rows, foreign tokens named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mindspeed_dpo.batches import PackedBatch, PreferenceBatch
from mindspeed_dpo.config.estimates.workload import MultiplyAdds
from mindspeed_dpo.data.batching.micro_batch_plan import MicroBatchLimit
from mindspeed_dpo.data.batching.packing_and_label_shift import packed_sizes
from mindspeed_dpo.parallel.topology import Topology
from mindspeed_dpo.workers.batching.batch_builder import BatchBuilder, InMemoryPairs, MicroBatches


@dataclass
class NumberedRows:
    """A dataset whose tokens encode the row: row r has the prompt [r] * 2 and the responses [r] and [r, r]."""

    def batch(self, rows: Sequence[int]) -> PreferenceBatch:
        return PreferenceBatch.from_lists([[r, r] for r in rows], [[[r], [r, r]] for r in rows])

    def lengths(self) -> np.ndarray:
        return np.tile(np.array([2, 1, 2], np.int32), (100, 1))


def batch_builder(dp: int = 1, dp_rank: int = 0, tp: int = 1, cp: int = 1, **settings: Any) -> BatchBuilder:
    usual = {"limit": MicroBatchLimit(units=2), "share_prompt": True, "multiple_of": 1, "vocab_size": 100}
    values = {"costs": MultiplyAdds(1, 1, 1), **usual, **settings}
    place = Topology(tp=tp, dp=dp, cp=cp).place((dp_rank * cp + cp - 1) * tp)
    return BatchBuilder(dataset=NumberedRows(), place=place, device=torch.device("cpu"), **values)  # type: ignore[arg-type]


def rows_of(batches: Sequence[PackedBatch]) -> list[int]:
    """The row of each real pair, read from its labels."""
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
def test_replicas_share_the_rows_without_losing_one_and_say_which_they_have(
    rows: list[int], dp: int, micro_batch_size: int, share_prompt: bool
) -> None:
    references = np.stack([np.arange(len(rows)), -np.arange(len(rows))], 1).astype(np.float32)
    seen: list[int] = []
    for rank in range(dp):
        settings = {"limit": MicroBatchLimit(units=micro_batch_size), "share_prompt": share_prompt}
        batches = batch_builder(dp, rank, **settings).micro_batches(rows, references)
        assert batches and all(1 <= len(batch.weights) <= micro_batch_size for batch in batches)
        places = [int(p) for b in batches for p, weight in zip(b.pair_ids, b.weights, strict=True) if weight]
        refs = [ref for b in batches for ref, weight in zip(b.ref_logps.tolist(), b.weights, strict=True) if weight]
        assert rows_of(batches) == [rows[place] for place in places]
        assert refs == references[places].tolist()
        seen += places
    assert sorted(seen) == list(range(len(rows)))


@pytest.mark.parametrize(("multiple_of", "passes"), [(1, [2, 2, 1]), (4, [1, 1, 1, 1, 1])])
def test_tokens_fill_a_micro_batch_with_its_padding(multiple_of: int, passes: list[int]) -> None:
    # Five tokens a pair; 11 hold two, but only 8 of them are a multiple of 4.
    limit = MicroBatchLimit(rows=11 - 11 % multiple_of)
    batches = batch_builder(limit=limit, multiple_of=multiple_of).micro_batches(range(5))
    assert [len(batch.weights) for batch in batches] == passes
    assert all(len(batch.tokens) % multiple_of == 0 for batch in batches)


@pytest.mark.parametrize("limit", [MicroBatchLimit(units=1), MicroBatchLimit(rows=60)], ids=["by pairs", "by tokens"])
def test_replicas_get_about_the_same_work_whose_attention_grows_with_the_square(limit: MicroBatchLimit) -> None:
    lengths = [40, 1, 2, 3, 35, 4, 30, 2, 1, 28, 6, 7]
    batch = PreferenceBatch.from_lists([[1] * n for n in lengths], [[[2] * n, [3]] for n in lengths])
    work = []
    for rank in range(2):
        part = replace(batch_builder(2, rank, limit=limit, costs=MultiplyAdds(0, 0, 1)), dataset=InMemoryPairs(batch))
        _, seen = packed_sizes(batch.lengths().numpy())
        ids = torch.cat([packed.pair_ids for packed in part.micro_batches(range(len(lengths)))])
        work.append(int(seen[ids.numpy()].sum()))
    assert max(work) < 1.05 * sum(work) / 2
    in_order = int(seen[:6].sum())
    assert max(work) < max(in_order, sum(work) - in_order)


def test_a_stream_gives_the_same_micro_batches_one_by_one() -> None:
    rows = [5, 6, 7]
    assert [rows_of([batch]) for batch in batch_builder().stream(rows)] == [
        rows_of([b]) for b in batch_builder().micro_batches(rows)
    ]
    assert rows_of([next(batch_builder(vocab_size=8).stream([1, 2, 99]))]) == [1, 2]


def test_a_micro_batch_is_packed_when_it_is_used_and_only_once() -> None:
    batches = batch_builder(vocab_size=8).micro_batches([1, 2, 99, 3])
    assert len(batches) == 2 and batches[0] is batches[0]
    assert rows_of([batches[-2]]) == [1, 2]
    with pytest.raises(ValueError, match="token 99"):
        batches[:]


def test_an_error_in_packing_is_not_taken_for_the_end() -> None:
    def broken() -> PackedBatch:
        raise IndexError("no such column")

    with pytest.raises(IndexError, match="no such column"):
        list(MicroBatches([broken]))


def test_a_replica_without_rows_gets_one_pair_that_counts_nothing() -> None:
    (batch,) = batch_builder(dp=3, dp_rank=2).micro_batches([7, 8])
    assert batch.weights.tolist() == [0.0]
    assert len(batch.labels) == 3


def test_without_references_they_are_zero() -> None:
    (batch,) = batch_builder().micro_batches([7, 8])
    assert batch.ref_logps.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(("multiple_of", "length"), [(4, 8), (1, 5)])
def test_rows_are_padded_to_the_multiple(multiple_of: int, length: int) -> None:
    (batch,) = batch_builder(multiple_of=multiple_of).micro_batches([7])
    assert len(batch.tokens) == length


def test_the_ranks_that_share_a_row_have_equal_parts_of_it() -> None:
    (batch,) = batch_builder(cp=2, multiple_of=8).micro_batches([7])
    assert len(batch.tokens) == 8
    assert batch.part is not None and (batch.part.start, batch.part.stop) == (4, 8)


@pytest.mark.parametrize("place", ["prompt", "response"])
def test_negative_tokens_are_refused_with_their_rows(place: str) -> None:
    prompt, response = (-3, 5) if place == "prompt" else (5, -3)
    pairs = PreferenceBatch.from_lists([[1], [prompt]], [[[2], [3]], [[4], [response]]])
    builder, numbers = batch_builder().over(pairs)
    with pytest.raises(ValueError, match=r"rows \[0, 1\] contain token -3, but the model has vocab_size=100"):
        list(builder.micro_batches(numbers))


def test_prompts_are_repeated_where_sharing_is_off() -> None:
    (shared,), (repeated,) = (batch_builder(share_prompt=flag).micro_batches([7]) for flag in (True, False))
    assert (len(shared.tokens), len(repeated.tokens)) == (2 + 3, 2 * 2 + 3)


def test_tokens_the_model_does_not_know_are_refused_with_their_rows() -> None:
    sentence = r"rows \[3, 40\] contain token 40, but the model has vocab_size=40: .* another tokenizer"
    with pytest.raises(ValueError, match=sentence):
        list(batch_builder(vocab_size=40).micro_batches([1, 2, 3, 40]))
    assert rows_of(batch_builder(vocab_size=41).micro_batches([1, 2, 3, 40])) == [1, 2, 3, 40]


@given(
    rows=st.integers(1, 11),
    dp=st.integers(2, 4),
    limit=st.one_of(st.integers(1, 4).map(lambda n: MicroBatchLimit(units=n)), st.just(MicroBatchLimit(rows=11))),
)
def test_replicas_that_share_experts_make_as_many_passes(rows: int, dp: int, limit: MicroBatchLimit) -> None:
    shares = []
    for rank in range(dp):
        place = Topology(dp=dp, ep=dp).place(rank)
        batches = replace(batch_builder(limit=limit), place=place).micro_batches(range(rows))
        alone = replace(batch_builder(limit=limit), place=Topology(dp=dp).place(rank)).micro_batches(range(rows))
        assert rows_of(batches) == rows_of(alone)
        shares.append(len(batches))
    assert len(set(shares)) == 1
