"""The tokenizer's chat template and plain text: where the response starts and how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from mindspeed_dpo.data.tokenization.examples import PairExample, Prompt, RowDropped, Turn
from mindspeed_dpo.data.tokenization.text_encoders import ChatTemplateEncoder, PlainEncoder
from mindspeed_dpo.data.tokenization.tokenizer import load_tokenizer
from tests.support.tokenizers import save_chat_tokenizer, save_tokenizer, text_of

QUESTION = Prompt((Turn("user", "Q"),))


def test_a_chat_template_ends_responses_itself(tmp_path: Path) -> None:
    encoder = ChatTemplateEncoder(load_tokenizer(save_chat_tokenizer(tmp_path)))
    turns = (Turn("user", "Q1"), Turn("assistant", "A1"), Turn("observation", "O"))
    tokens = encoder.pair(PairExample(Prompt(turns, "S"), "A", "B"))
    expected = "<s><|system|>S<|end|><|user|>Q1<|end|><|assistant|>A1<|end|><|tool|>O<|end|><|assistant|>"
    assert text_of(encoder.tokenizer, tokens.prompt) == expected
    assert text_of(encoder.tokenizer, tokens.chosen) == "A<|end|>"
    assert text_of(encoder.tokenizer, tokens.rejected) == "B<|end|>"
    assert encoder.prompt(Prompt(turns, "S")) == tokens.prompt


def test_a_chat_template_may_refuse_a_row(tmp_path: Path) -> None:
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}x"
    encoder = ChatTemplateEncoder(load_tokenizer(save_tokenizer(tmp_path, chat_template=strict)))
    with pytest.raises(RowDropped) as dropped:
        encoder.prompt(Prompt(QUESTION.turns, "S"))
    assert (dropped.value.reason, dropped.value.detail) == ("refused_by_template", "no system")


def test_thinking_is_handed_to_the_chat_template(tmp_path: Path) -> None:
    template = "{% if enable_thinking is defined %}{{ enable_thinking }}{% else %}unset{% endif %}"
    tokenizer = load_tokenizer(save_tokenizer(tmp_path, chat_template=template))
    texts = [
        text_of(tokenizer, ChatTemplateEncoder(tokenizer, thinking).prompt(QUESTION))
        for thinking in (None, True, False)
    ]
    assert texts == ["unset", "True", "False"]


def test_a_tokenizer_without_chat_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the tokenizer has no chat template; choose a named template"):
        ChatTemplateEncoder(load_tokenizer(save_tokenizer(tmp_path)))


def test_plain_text_gets_an_end_token_only_where_it_lacks_one(tmp_path: Path) -> None:
    encoder = PlainEncoder(load_tokenizer(save_tokenizer(tmp_path)))
    tokens = encoder.pair(PairExample(QUESTION, " yes", " no</s>"))
    assert text_of(encoder.tokenizer, tokens.prompt) == "Q"
    assert text_of(encoder.tokenizer, tokens.chosen) == " yes</s>"
    assert text_of(encoder.tokenizer, tokens.rejected) == " no</s>"


@pytest.mark.parametrize("merging", ["chosen", "rejected"])
def test_a_response_starts_where_the_ids_part_in_either_row(tmp_path: Path, merging: str) -> None:
    """`Qa` is one token, so beside the response `a` the prompt's Q belongs to both responses."""
    encoder = PlainEncoder(load_tokenizer(save_tokenizer(tmp_path, merges=[("Q", "a")])))
    responses = {"chosen": "b", "rejected": "b", merging: "a"}
    tokens = encoder.pair(PairExample(Prompt((Turn("user", "xQ"),)), **responses))
    pieces = [
        [text_of(encoder.tokenizer, [token]) for token in ids]
        for ids in (tokens.prompt, tokens.chosen, tokens.rejected)
    ]
    expected = {"chosen": ["Q", "b", "</s>"], "rejected": ["Q", "b", "</s>"], merging: ["Qa", "</s>"]}
    assert pieces == [["x"], expected["chosen"], expected["rejected"]]
    assert tokens.prompt_tail == 1


def test_plain_text_takes_no_dialogue(tmp_path: Path) -> None:
    encoder = PlainEncoder(load_tokenizer(save_tokenizer(tmp_path)))
    for prompt in (Prompt(QUESTION.turns, "S"), Prompt((*QUESTION.turns, Turn("assistant", "A"), *QUESTION.turns))):
        with pytest.raises(RowDropped) as dropped:
            encoder.prompt(prompt)
        assert dropped.value.reason == "not_plain"


def test_plain_text_needs_an_end_token(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the tokenizer has none"):
        PlainEncoder(load_tokenizer(save_tokenizer(tmp_path, eos=None)))
