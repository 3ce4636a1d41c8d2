"""Batches: what is built from lists comes back, selecting keeps pairs together, invalid shapes are named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mindspeed_dpo.algorithms.ld_dpo import excess_weights
from mindspeed_dpo.batches import PackedBatch, PreferenceBatch, RolloutBatch, concat_responses

TOKENS = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5)
Lists = tuple[list[list[int]], list[list[list[int]]]]


@st.composite
def token_lists(draw: st.DrawFn) -> Lists:
    """P prompts and K responses of each."""
    count, responses = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    prompts = draw(st.lists(TOKENS, min_size=count, max_size=count))
    row = st.lists(TOKENS, min_size=responses, max_size=responses)
    return prompts, draw(st.lists(row, min_size=count, max_size=count))


def lists_of(batch: PreferenceBatch) -> Lists:
    return [p.tolist() for p in batch.prompts()], [[r.tolist() for r in row] for row in batch.responses()]


@given(token_lists())
def test_a_batch_gives_back_the_lists_it_was_made_of(lists: Lists) -> None:
    batch = PreferenceBatch.from_lists(*lists)
    assert lists_of(batch) == lists
    assert (batch.num_prompts, batch.num_responses) == (len(lists[0]), len(lists[1][0]))


@given(token_lists(), st.data())
def test_selecting_keeps_pairs_and_the_requested_order(lists: Lists, data: st.DataObject) -> None:
    prompts, responses = lists
    chosen = data.draw(st.lists(st.integers(0, len(prompts) - 1), min_size=1, max_size=7))
    batch = PreferenceBatch.from_lists(prompts, responses)
    batch = batch.with_ref_logps(torch.randn(batch.response_lengths.shape))
    selected = batch.select(chosen)
    assert lists_of(selected) == ([prompts[p] for p in chosen], [responses[p] for p in chosen])
    assert batch.ref_logps is not None and selected.ref_logps is not None
    assert selected.ref_logps.tolist() == [batch.ref_logps[p].tolist() for p in chosen]


def test_selecting_from_a_batch_without_references_has_none() -> None:
    assert PreferenceBatch.from_lists([[1]], [[[2], [3]]]).select([0]).ref_logps is None


def test_tokens_and_lengths_are_int32() -> None:
    batch = PreferenceBatch.from_lists([[1, 2]], [[[3], [4, 5]]]).select([0])
    tensors = (batch.prompt_tokens, batch.prompt_lengths, batch.response_tokens, batch.response_lengths)
    assert {tensor.dtype for tensor in tensors} == {torch.int32}


def test_references_join_a_batch_without_changing_it() -> None:
    batch = PreferenceBatch.from_lists([[1], [2]], [[[3], [4]], [[5], [6, 7]]])
    references = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])
    concat_optional = batch.with_ref_logps(references)
    assert concat_optional.ref_logps is references
    assert lists_of(concat_optional) == lists_of(batch)
    assert batch.ref_logps is None


@pytest.mark.parametrize(
    ("invalid", "sentence"),
    [
        ({"response_lengths": torch.tensor([1, 2, 1, 1])}, r"response_lengths must be \[P, K\] with P = 2, got \[4\]"),
        ({"response_lengths": torch.tensor([[1, 2]])}, r"response_lengths must be \[P, K\] with P = 2, got \[1, 2\]"),
        ({"prompt_lengths": torch.tensor([2, 2])}, "prompt_lengths sum to 4, there are 3 prompt_tokens"),
        ({"response_tokens": torch.arange(4)}, "response_lengths sum to 5, there are 4 response_tokens"),
        ({"ref_logps": torch.zeros(2)}, r"ref_logps must be \[2, 2\], got \[2\]"),
        ({"ref_logps": torch.zeros(2, 3)}, r"ref_logps must be \[2, 2\], got \[2, 3\]"),
    ],
)
def test_shapes_that_disagree_are_refused_by_name(invalid: dict[str, Any], sentence: str) -> None:
    right = {
        "prompt_tokens": torch.arange(3),
        "prompt_lengths": torch.tensor([1, 2]),
        "response_tokens": torch.arange(5),
        "response_lengths": torch.tensor([[1, 2], [1, 1]]),
    }
    PreferenceBatch(**right)
    with pytest.raises(ValueError, match=sentence):
        PreferenceBatch(**{**right, **invalid})


def packed(**changes: Any) -> PackedBatch:
    """Two pairs whose four responses have 1, 2, 1 and 3 tokens."""
    values = {
        "tokens": torch.arange(9),
        "positions": torch.arange(9),
        "query_lengths": (9,),
        "key_lengths": (9,),
        "key_rows": None,
        "score_rows": torch.arange(7),
        "labels": torch.arange(7),
        "response_ids": torch.tensor([0, 1, 1, 2, 3, 3, 3]),
        "last_rows": torch.tensor([0, 2, 3, 6]),
        "response_lengths": torch.tensor([[1, 2], [1, 3]]),
        "ref_logps": torch.zeros(2, 2),
        "weights": torch.ones(2),
        "pair_ids": torch.arange(2),
    }
    return PackedBatch(**{**values, **changes})


def test_values_are_summed_over_the_tokens_of_each_response() -> None:
    values = torch.tensor([1.0, 2, 4, 8, 16, 32, 64], dtype=torch.float64, requires_grad=True)
    sums = packed().sum_by_response(values)
    assert sums.dtype == torch.float64
    assert sums.tolist() == [[1, 6], [8, 112]]
    (sums * torch.tensor([[1.0, 2], [3, 4]])).sum().backward()
    assert values.grad is not None and values.grad.tolist() == [1, 2, 2, 3, 4, 4, 4]


@pytest.mark.parametrize("key_rows", [None, torch.arange(9)])
def test_a_packed_batch_moves_with_every_tensor_and_keeps_what_it_was_copied_from(
    key_rows: torch.Tensor | None,
) -> None:
    batch = packed(key_rows=key_rows)
    moved = batch.to(torch.device("meta"))
    assert moved.source is batch and batch.to(torch.device("cpu")) is batch
    tensors = {name: value for name, value in vars(moved).items() if torch.is_tensor(value)}
    assert len(tensors) == 10 + (key_rows is not None)
    assert {value.device.type for value in tensors.values()} == {"meta"}
    assert (moved.query_lengths, moved.key_lengths) == ((9,), (9,))


def test_tokens_past_the_shorter_response_of_their_pair_weigh_alpha() -> None:
    weights = excess_weights(packed(), 0.25)
    assert weights.tolist() == [1.0, 1.0, 0.25, 1.0, 1.0, 0.25, 0.25]


def test_which_tokens_are_scored_follows_them() -> None:
    batch = PreferenceBatch.from_lists([[1], [2]], [[[4, 5], [6]], [[7], [8, 9]]])
    masked = replace(batch, scored=torch.tensor([True, False, True, True, True, False]))
    assert masked.select([1, 0]).scored.tolist() == [True, True, False, True, False, True]
    assert masked.choose(torch.tensor([1, 0]), torch.tensor([[1], [0]])).scored.tolist() == [True, False, True, False]
    assert PreferenceBatch.concat([batch, masked]).scored.tolist() == [True] * 6 + masked.scored.tolist()
    assert PreferenceBatch.concat([batch, batch]).scored is None and batch.scored_by_response() is None
    with pytest.raises(ValueError, match=r"scored must be \[6\], one per response token, got \[5\]"):
        replace(batch, scored=torch.ones(5, dtype=torch.bool))


def test_what_a_pair_carries_follows_it() -> None:
    batch = PreferenceBatch.from_lists([[1], [2], [3]], [[[4], [5]], [[6], [7]], [[8], [9]]])
    carrying = replace(batch, margins=torch.tensor([0.1, 0.2, 0.3]), factors=torch.tensor([1.0, 2.0, 3.0]))
    picked = carrying.select([2, 0])
    assert picked.margins is not None and picked.margins.tolist() == pytest.approx([0.3, 0.1])
    concat_optional = PreferenceBatch.concat([picked, carrying])
    assert concat_optional.factors is not None and concat_optional.factors.tolist() == [3.0, 1.0, 1.0, 2.0, 3.0]
    assert PreferenceBatch.concat([picked, batch]).factors is None
    with pytest.raises(ValueError, match=r"margins must be \[3\]"):
        replace(batch, margins=torch.zeros(2))


def test_what_belongs_to_responses_and_their_tokens_goes_with_them() -> None:
    batch = replace(
        PreferenceBatch.from_lists([[1], [2, 3]], [[[4, 5], [6]], [[7], [8, 9, 10]]]),
        logp_weights=torch.tensor([[0.0, 1.0], [2.0, 3.0]]),
        ref_token_logps=torch.tensor([4.0, 5, 6, 7, 8, 9, 10]),
        rollout_token_logps=-torch.tensor([4.0, 5, 6, 7, 8, 9, 10]),
    )
    turned = batch.select([1, 0])
    assert turned.ref_token_logps is not None and turned.logp_weights is not None
    assert turned.ref_token_logps.tolist() == turned.response_tokens.tolist() == [7, 8, 9, 10, 4, 5, 6]
    assert turned.logp_weights.tolist() == [[2, 3], [0, 1]]
    chosen = batch.choose(torch.tensor([1, 0]), torch.tensor([[1, 0], [0, 1]]))
    assert chosen.logp_weights is not None and chosen.logp_weights.tolist() == [[3, 2], [0, 1]]
    assert chosen.rollout_token_logps is not None
    assert (-chosen.rollout_token_logps).tolist() == chosen.response_tokens.tolist()
    both = PreferenceBatch.concat([batch, turned])
    assert both.ref_token_logps is not None
    assert both.ref_token_logps.tolist() == both.response_tokens.tolist()
    with pytest.raises(ValueError, match=r"ref_token_logps must be \[7\], one per response token, got \[6\]"):
        replace(batch, ref_token_logps=torch.zeros(6))
    with pytest.raises(ValueError, match=r"logp_weights must be \[2, 2\], got \[2\]"):
        replace(batch, logp_weights=torch.zeros(2))


def test_responses_of_two_batches_are_concatenated() -> None:
    def rollouts(prompts: list[list[int]], responses: list[list[list[int]]], ended: bool) -> RolloutBatch:
        sampled, shape = PreferenceBatch.from_lists(prompts, responses), (len(prompts), len(responses[0]))
        return RolloutBatch(sampled, torch.arange(len(prompts)), torch.full(shape, ended), version=3)

    one = rollouts([[1], [2, 3]], [[[4, 5]], [[7]]], True)
    one = replace(one, samples=replace(one.samples, rollout_token_logps=torch.tensor([-1.0, -2.0, -3.0])))
    actual = concat_responses(one, rollouts([[1], [2, 3]], [[[6]], [[8, 9]]], False))
    assert lists_of(actual.samples) == ([[1], [2, 3]], [[[4, 5], [6]], [[7], [8, 9]]])
    assert actual.ended.tolist() == [[True, False]] * 2 and actual.version == 3 and actual.logps is None
    # Those of the other model's tokens are not the policy's.
    assert str(actual.samples.rollout_token_logps) == "tensor([-1., -2., nan, -3., nan, nan])"
    with pytest.raises(ValueError, match="only responses to the same prompts can be concatenated"):
        concat_responses(one, rollouts([[1], [2, 4]], [[[6]], [[8, 9]]], False))
