"""The tokenizer's chat template and plain text: where the response starts and how it ends."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase as TokenizerBase

from mindspeed_dpo.data.tokenization import chat_rendering
from mindspeed_dpo.data.tokenization.chat_rendering import ChatTemplateError
from mindspeed_dpo.data.tokenization.chat_template_encoder import ChatTemplateEncoder
from mindspeed_dpo.data.tokenization.examples import PairExample, Prompt, RowDropped, Turn
from mindspeed_dpo.data.tokenization.plain_encoder import PlainEncoder
from mindspeed_dpo.data.tokenization.tokenizer import load_tokenizer
from tests.support.tokenizers import save_chat_tokenizer, save_tokenizer, text_of

QUESTION = Prompt((Turn("user", "Q"),))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> TokenizerBase:
    return load_tokenizer(save_chat_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
def tokenizer(loaded: TokenizerBase) -> TokenizerBase:
    """A tokenizer whose template a test may replace."""
    return copy.deepcopy(loaded)


def test_a_chat_template_ends_responses_itself(tmp_path: Path) -> None:
    encoder = ChatTemplateEncoder(load_tokenizer(save_chat_tokenizer(tmp_path)))
    turns = (Turn("user", "Q1"), Turn("assistant", "A1"), Turn("observation", "O"))
    tokens = encoder.pair(PairExample.of_texts(Prompt(turns, "S"), "A", "B"))
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


SYSTEM_IN_LAST_USER_TURN = (
    "{{ bos_token }}{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}[INST]"
    "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content }} {% endif %}{{ m.content }}[/INST]"
    "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
OPEN_THOUGHT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>{% endif %}"
)
COUNTED = "{{ messages | length }}" + OPEN_THOUGHT


@pytest.mark.parametrize(
    ("template", "system", "changed"),
    [
        (SYSTEM_IN_LAST_USER_TURN, "S", True),
        (SYSTEM_IN_LAST_USER_TURN, "", False),
        (OPEN_THOUGHT, "S", False),
        (COUNTED, "", True),
        ("{{ messages[-1].content }}", "", True),
    ],
)
def test_a_prompt_that_changes_with_its_response_is_noticed(
    tokenizer: TokenizerBase, template: str, system: str, changed: bool
) -> None:
    tokenizer.chat_template = template
    assert (
        ChatTemplateEncoder(tokenizer)
        .pair(PairExample.of_texts(Prompt(QUESTION.turns, system), "A", "B"))
        .is_prompt_changed
        == changed
    )


@pytest.mark.parametrize("template", ["{{ 1 / 0 }}", "{{ messages[7].content }}", "{{ messages.x.y }}", "{{ 'a' + 1 }}",
                                      "{% for n in range(10 ** 9) %}{% endfor %}"])  # fmt: skip
def test_a_template_that_fails_costs_the_row_only(tokenizer: TokenizerBase, template: str) -> None:
    tokenizer.chat_template = template
    encoder = ChatTemplateEncoder(tokenizer)
    with pytest.raises(RowDropped) as dropped:
        encoder.prompt(QUESTION)
    assert dropped.value.reason == "refused_by_template" and dropped.value.detail


def test_a_template_that_does_not_end_gets_a_sentence(
    tokenizer: TokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    monkeypatch.setattr(chat_rendering, "MAX_RENDERING_S", 0.05)
    tokenizer.chat_template = loops
    with pytest.raises(ChatTemplateError, match=rf"the chat template of {tokenizer.name_or_path} did not end within 0"):
        ChatTemplateEncoder(tokenizer).prompt(QUESTION)


def test_what_a_template_renders_is_bounded(tokenizer: TokenizerBase, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer.chat_template = "{{ 'x' * 50 }}"
    monkeypatch.setattr(chat_rendering, "MAX_RENDERED_CHARACTERS", 49)
    with pytest.raises(RowDropped, match="the rendered text has 50 characters"):
        ChatTemplateEncoder(tokenizer).prompt(QUESTION)


@pytest.mark.parametrize("encoder_type", [ChatTemplateEncoder, PlainEncoder])
def test_half_a_surrogate_pair_drops_the_row(tokenizer: TokenizerBase, encoder_type: type) -> None:
    encoder = encoder_type(tokenizer)
    for example in (
        PairExample.of_texts(QUESTION, "A\ud83d", "B"),
        PairExample.of_texts(Prompt((Turn("user", "\udc00"),)), "A", "B"),
    ):
        with pytest.raises(RowDropped) as dropped:
            encoder.pair(example)
        assert dropped.value.reason == "not_unicode"


def test_a_thought_is_rendered_by_a_template_that_reads_it(tokenizer: TokenizerBase) -> None:
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{% if m.thinking %}({{ m.thinking }}){% endif %}{{ m.content }}"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    example = PairExample.of_texts(QUESTION, "A", "B", chosen_thought="hm")
    others = (ChatTemplateEncoder(tokenizer), PlainEncoder(tokenizer))
    thinking = copy.deepcopy(tokenizer)
    thinking.chat_template = template
    assert text_of(tokenizer, ChatTemplateEncoder(thinking).pair(example).chosen) == "(hm)A"
    thinking.chat_template = template.replace("{{ m.content }}", "{{ m.content }}<|end|>\n")
    for content in ("A", "", "BA", "end|>"):
        assert ChatTemplateEncoder(thinking).reference(Turn("assistant", content, "hm")) == f"(hm){content}"
    for other in others:
        assert other.reference(Turn("assistant", " A")) == " A"
        with pytest.raises(RowDropped):
            other.reference(Turn("assistant", "A", "hm"))
        with pytest.raises(RowDropped) as dropped:
            other.pair(example)
        assert dropped.value.reason == "unsupported_field"


@pytest.mark.parametrize(("expression", "is_rendered"), [("m.thinking", True), ("''", False)])
def test_a_word_in_a_template_is_not_a_field_that_it_reads(
    tokenizer: TokenizerBase, expression: str, is_rendered: bool
) -> None:
    subject = copy.deepcopy(tokenizer)
    subject.chat_template = (
        "{% set reasoning_effort = 'low' %}{% if enable_thinking is defined %}{% endif %}"
        "{% for m in messages %}<|{{ m.role }}|>{{ " + expression + " }}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    example = PairExample.of_texts(QUESTION, "A", "B", chosen_thought="hm")
    if is_rendered:
        assert text_of(tokenizer, ChatTemplateEncoder(subject).pair(example).chosen) == "hmA"
        return
    with pytest.raises(RowDropped) as dropped:
        ChatTemplateEncoder(subject).pair(example)
    assert dropped.value.reason == "unsupported_field"


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
    tokens = encoder.pair(PairExample.of_texts(QUESTION, " yes", " no</s>"))
    assert text_of(encoder.tokenizer, tokens.prompt) == "Q"
    assert text_of(encoder.tokenizer, tokens.chosen) == " yes</s>"
    assert text_of(encoder.tokenizer, tokens.rejected) == " no</s>"


@pytest.mark.parametrize("merging", ["chosen", "rejected"])
def test_a_response_starts_where_the_ids_part_in_either_row(tmp_path: Path, merging: str) -> None:
    """`Qa` is one token, so beside the response `a` the prompt's Q belongs to both responses."""
    encoder = PlainEncoder(load_tokenizer(save_tokenizer(tmp_path, merges=[("Q", "a")])))
    responses = {"chosen": "b", "rejected": "b", merging: "a"}
    tokens = encoder.pair(PairExample.of_texts(Prompt((Turn("user", "xQ"),)), **responses))
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
