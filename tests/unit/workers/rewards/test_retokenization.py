"""Tokens for a reward model: each response is written as it would be alone, whatever stands beside it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspeed_dpo.data.tokenization.examples import RowDropped
from mindspeed_dpo.workers.rewards.retokenization import SameTokenizer, shared_prompt
from tests.unit.workers.rewards.sample_rollouts import rollouts, tokenizer

TOKENS = st.lists(st.integers(0, 2), max_size=6)


@given(prompt=st.lists(st.integers(0, 2), min_size=1, max_size=6), tails=st.lists(TOKENS, min_size=2, max_size=4))
def test_prompt_and_response_together_are_what_was_written(prompt: list[int], tails: list[list[int]]) -> None:
    sequences = [(prompt, prompt + tail) for tail in tails]
    if len(prompt) == 1 and not all(tails):
        with pytest.raises(RowDropped):
            shared_prompt(sequences)
        return
    shared, responses = shared_prompt(sequences)
    assert [shared + response for response in responses] == [complete for _, complete in sequences]
    assert shared and all(responses) and shared == prompt[: len(shared)]
    assert len(shared) == len(prompt) - (not all(tails)), (
        "all of the prompt is computed once, if every response has more"
    )


def test_a_prompt_that_merges_with_one_of_its_responses_is_cut_before_that() -> None:
    shared, responses = shared_prompt([([7, 8, 1], [7, 8, 12]), ([7, 8, 1], [7, 8, 1, 3])])
    assert (shared, responses) == ([7, 8], [[12], [1, 3]])


def test_sequences_that_have_nothing_in_common_cannot_be_scored_together() -> None:
    with pytest.raises(RowDropped, match="the responses have no prompt in common"):
        shared_prompt([([1], [1, 2]), ([3], [3, 2])])


def test_the_policys_tokens_are_left_as_they_are() -> None:
    batch = rollouts([("a", ["<answer>b</answer><|end|>", "c"])])
    written = SameTokenizer().convert(batch)
    assert written.batch is batch.samples and list(written.positions) == [0] and not written.failures


def test_marked_answers_keep_the_end_of_their_response() -> None:
    batch = rollouts([("a", ["so <answer>b</answer> it is<|end|>", "no <answer>c</answer>"]), ("d", ["e<|end|>", "f"])])
    written = SameTokenizer(tokenizer()).convert(batch)
    assert written.batch is not None
    texts = [[tokenizer().decode(ids.tolist()) for ids in row] for row in written.batch.responses()]
    assert texts == [["b<|end|>", "c"], ["e<|end|>", "f"]]
    assert [tokenizer().decode(ids.tolist()) for ids in written.batch.prompts()] == ["a", "d"]
