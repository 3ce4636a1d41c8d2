"""Packing: both layouts describe the same sequences, nothing reads padding, pairs stay together."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mindspeed_dpo.batches import PackedBatch, PreferenceBatch
from mindspeed_dpo.data.batching.packing_and_label_shift import pack, packed_sizes

TOKENS = st.lists(st.integers(1, 500), min_size=1, max_size=5)
EITHER = pytest.mark.parametrize("share_prompt", [True, False])


@st.composite
def batches(draw: st.DrawFn) -> PreferenceBatch:
    """Up to four prompts with one to three responses each, with references."""
    count, responses = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    prompts = draw(st.lists(TOKENS, min_size=count, max_size=count))
    row = st.lists(TOKENS, min_size=responses, max_size=responses)
    batch = PreferenceBatch.from_lists(prompts, draw(st.lists(row, min_size=count, max_size=count)))
    return batch.with_ref_logps(-torch.rand(count, responses))


@dataclass(frozen=True)
class Step:
    """One prediction: the tokens and positions that the scored row sees, and what it is to predict."""

    seen: list[int]
    positions: list[int]
    label: int


def visible_rows(packed: PackedBatch) -> list[torch.Tensor]:
    """For every row of the packed row, the rows whose keys it attends to: bottom-right causal within its segment."""
    key_rows = torch.arange(len(packed.tokens)) if packed.key_rows is None else packed.key_rows
    visible = []
    for queries, keys in zip(packed.query_lengths, key_rows.split(packed.key_lengths), strict=True):
        visible += [keys[: len(keys) - queries + i + 1] for i in range(queries)]
    return visible


def described(packed: PackedBatch) -> list[list[Step]]:
    """The predictions of each response, read from the tables alone."""
    visible = visible_rows(packed)
    actual: list[list[Step]] = [[] for _ in range(packed.response_lengths.numel())]
    columns = (packed.score_rows, packed.labels, packed.response_ids)
    for row, label, response in zip(*(column.tolist() for column in columns), strict=True):
        seen = visible[row]
        actual[response].append(Step(packed.tokens[seen].tolist(), packed.positions[seen].tolist(), label))
    return actual


def expected(batch: PreferenceBatch) -> list[list[Step]]:
    """The same from the definition: each response token is predicted from the prompt and what came before it."""
    sequences = [
        (prompt.tolist(), response.tolist())
        for prompt, row in zip(batch.prompts(), batch.responses(), strict=True)
        for response in row
    ]
    return [
        [
            Step(prompt + response[:at], list(range(len(prompt) + at)), response[at])
            for at in range(len(response))
        ]
        for prompt, response in sequences
    ]  # fmt: skip


@EITHER
@given(batch=batches(), multiple_of=st.integers(1, 9))
def test_the_last_row_of_a_response_sees_all_of_it_and_its_prompt(
    share_prompt: bool, batch: PreferenceBatch, multiple_of: int
) -> None:
    packed = pack(batch, share_prompt=share_prompt, multiple_of=multiple_of)
    visible = visible_rows(packed)
    seen = [packed.tokens[visible[row]].tolist() for row in packed.last_rows.tolist()]
    assert seen == [
        prompt.tolist() + response.tolist()
        for prompt, row in zip(batch.prompts(), batch.responses(), strict=True)
        for response in row
    ]


@EITHER
@given(batch=batches(), multiple_of=st.integers(1, 9))
def test_every_response_token_is_predicted_from_its_prompt_and_what_came_before(
    share_prompt: bool, batch: PreferenceBatch, multiple_of: int
) -> None:
    packed = pack(batch, share_prompt=share_prompt, multiple_of=multiple_of)
    assert described(packed) == expected(batch)
    # Losses divide by these lengths, and segment sums rely on them.
    assert torch.equal(packed.response_lengths.flatten(), packed.response_ids.bincount())


@EITHER
@given(batch=batches())
def test_the_last_token_of_a_response_sees_the_full_sequence(share_prompt: bool, batch: PreferenceBatch) -> None:
    packed = pack(batch, share_prompt=share_prompt)
    ends = torch.cumsum(torch.tensor(packed.query_lengths), 0) - 1
    last_rows = [visible_rows(packed)[end] for end in ends.tolist()]
    complete = [packed.tokens[rows].tolist() for rows in last_rows]
    sequences, prompts = [], [prompt.tolist() for prompt in batch.prompts()]
    for prompt, row in zip(prompts, batch.responses(), strict=True):
        sequences += [prompt] * share_prompt + [prompt + response.tolist() for response in row]
    assert complete == sequences


@given(batch=batches())
def test_a_shared_prompt_is_computed_once_and_a_repeated_one_for_each_response(batch: PreferenceBatch) -> None:
    prompts, responses = len(batch.prompt_tokens), len(batch.response_tokens)
    assert len(pack(batch).tokens) == prompts + responses
    assert len(pack(batch, share_prompt=False).tokens) == prompts * batch.num_responses + responses


@EITHER
@given(batch=batches(), multiple_of=st.integers(1, 9))
def test_padding_fills_the_row_and_is_never_read(share_prompt: bool, batch: PreferenceBatch, multiple_of: int) -> None:
    plain = pack(batch, share_prompt=share_prompt)
    padded = pack(batch, share_prompt=share_prompt, multiple_of=multiple_of)
    length, extra = len(plain.tokens), len(padded.tokens) - len(plain.tokens)
    assert 0 <= extra < multiple_of and len(padded.tokens) % multiple_of == 0
    assert sum(padded.query_lengths) == len(padded.tokens)
    assert padded.query_lengths == plain.query_lengths + ((extra,) if extra else ())
    assert int(padded.score_rows.max()) < length
    visible = visible_rows(padded)
    assert all(int(rows.max()) < length for rows in visible[:length])
    assert all(int(rows.min()) >= length for rows in visible[length:])


@EITHER
@given(batch=batches(), data=st.data())
def test_permuting_pairs_permutes_everything(share_prompt: bool, batch: PreferenceBatch, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(batch.num_prompts)))
    weights = torch.rand(batch.num_prompts)
    before = pack(batch, share_prompt=share_prompt, weights=weights)
    after = pack(batch.select(order), share_prompt=share_prompt, weights=weights[order])
    responses = [p * batch.num_responses + k for p in order for k in range(batch.num_responses)]
    assert described(after) == [described(before)[response] for response in responses]
    for name in ("response_lengths", "ref_logps", "weights"):
        assert torch.equal(getattr(after, name), getattr(before, name)[order]), name


@EITHER
def test_absent_weights_are_one_and_absent_references_zero(share_prompt: bool) -> None:
    packed = pack(PreferenceBatch.from_lists([[1], [2]], [[[3], [4]], [[5], [6]]]), share_prompt=share_prompt)
    assert packed.weights.tolist() == [1, 1]
    assert packed.ref_logps.tolist() == [[0, 0], [0, 0]]


@EITHER
def test_indices_are_int64_as_embedding_and_gather_want_them(share_prompt: bool) -> None:
    packed = pack(PreferenceBatch.from_lists([[1, 2]], [[[3], [4, 5]]]), share_prompt=share_prompt, multiple_of=4)
    names = ["tokens", "positions", "score_rows", "labels", "response_ids", "response_lengths"]
    names += ["key_rows"] * share_prompt
    assert {name: getattr(packed, name).dtype for name in names} == dict.fromkeys(names, torch.int64)


def test_repeated_prompts_need_no_gather() -> None:
    packed = pack(PreferenceBatch.from_lists([[1, 2]], [[[3], [4, 5]]]), share_prompt=False)
    assert packed.key_rows is None and packed.key_lengths == packed.query_lengths


@EITHER
@given(batch=batches())
def test_sizes_follow_from_lengths_alone(share_prompt: bool, batch: PreferenceBatch) -> None:
    rows, seen = packed_sizes(batch.lengths().numpy(), share_prompt=share_prompt)
    for prompt in range(batch.num_prompts):
        alone = pack(batch.select([prompt]), share_prompt=share_prompt)
        assert rows[prompt] == len(alone.tokens)
        assert seen[prompt] == sum(len(keys) for keys in visible_rows(alone))


@EITHER
@given(batch=batches(), data=st.data())
def test_only_scored_tokens_are_predicted_from_all_that_came_before(
    share_prompt: bool, batch: PreferenceBatch, data: st.DataObject
) -> None:
    count = len(batch.response_tokens)
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    mask[(batch.response_lengths.flatten().cumsum(0) - batch.response_lengths.flatten()).long()] = True
    values = torch.arange(count, dtype=torch.float32)
    masked = replace(batch, scored=mask, ref_token_logps=values)
    packed = pack(masked, share_prompt=share_prompt)
    masks = [m.tolist() for row in masked.scored_by_response() or [] for m in row]
    assert described(packed) == [
        [step for step, is_scored in zip(steps, scored, strict=True) if is_scored]
        for steps, scored in zip(expected(batch), masks, strict=True)
    ]
    assert torch.equal(packed.response_lengths.flatten(), packed.response_ids.bincount())
    assert packed.ref_token_logps is not None and torch.equal(packed.ref_token_logps, values[mask])
    complete = pack(batch, share_prompt=share_prompt)
    assert torch.equal(packed.tokens, complete.tokens) and torch.equal(packed.last_rows, complete.last_rows)
    assert packed_sizes(masked.lengths().numpy(), share_prompt=share_prompt)[0].sum() == len(packed.tokens)


RANKING = [[[3], [4, 9, 6], [5, 5]], [[8, 1], [2, 0], []], [[7], [1, 2], [9, 9, 9]]]
SHORT_PROMPTS = [[5, 1, 2], [7, 20], [11]]


@EITHER
def test_a_prompt_with_fewer_responses_is_packed_as_without_the_others(share_prompt: bool) -> None:
    batch = PreferenceBatch.from_lists(SHORT_PROMPTS, RANKING)
    packed = pack(batch, share_prompt=share_prompt)
    alone = [
        pack(
            PreferenceBatch.from_lists([prompt], [[response for response in row if response]]),
            share_prompt=share_prompt,
        )
        for prompt, row in zip(SHORT_PROMPTS, RANKING, strict=True)
    ]
    assert torch.equal(packed.tokens, torch.cat([one.tokens for one in alone]))
    assert packed.query_lengths == sum((one.query_lengths for one in alone), ())
    assert packed.key_lengths == sum((one.key_lengths for one in alone), ())
    assert 0 not in packed.query_lengths
    assert torch.equal(packed.labels, torch.cat([one.labels for one in alone]))
    assert packed.response_lengths.tolist() == [[1, 3, 2], [2, 2, 0], [1, 2, 3]]
    last = [[row[-1] for row in rows if row] for rows in RANKING]
    real = packed.response_lengths.flatten() > 0
    assert packed.tokens[packed.last_rows[real]].tolist() == [token for row in last for token in row]
    rows, _ = packed_sizes(batch.lengths().numpy(), share_prompt=share_prompt)
    assert rows.tolist() == [len(one.tokens) for one in alone]
    belongs = {number for segment in packed.segment_responses for number in segment}
    assert belongs == set(range(9)) - {5}
