"""What is scored of a dialogue: exactly what the assistant writes, for the chat templates of published models."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase as TokenizerBase

from mindspeed_dpo.data.preprocessing.responses import make_pair
from mindspeed_dpo.data.tokenization.chat_template_encoder import ChatTemplateEncoder
from mindspeed_dpo.data.tokenization.dialogue_parsing import write_message
from mindspeed_dpo.data.tokenization.examples import PairExample, PairTokens, Prompt, RowDropped, ToolCall, Turn
from mindspeed_dpo.data.tokenization.tokenizer import load_tokenizer
from tests.support.chat_templates import TEMPLATES
from tests.support.tokenizers import save_tokenizer, text_of

MERGES = [("Ġ", "N"), ("Ċ", "Ċ"), ("N", "o"), ("o", ".")]
"""Merges within what is scored, and across two line breaks."""
FRAME = "<think>\n\n</think>\n\n"
TOOLS = '[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizers")


@cache
def tokenizer_of(folder: Path, name: str) -> TokenizerBase:
    template = TEMPLATES[name]
    path = save_tokenizer(
        folder / name, special=template.special, merges=MERGES, bos=template.bos, eos=template.eos,
        chat_template=template.text,
    )  # fmt: skip
    return load_tokenizer(path)


def encoder(folder: Path, name: str, **options: Any) -> ChatTemplateEncoder:
    return ChatTemplateEncoder(tokenizer_of(folder, name), **{"response_end": "end_token", **options})


def user(text: str) -> Turn:
    return Turn("user", text)


def assistant(text: str, **fields: Any) -> Turn:
    return Turn("assistant", text, **fields)


def scored_texts(tokenizer: TokenizerBase, ids: list[int], mask: list[bool] | None) -> list[str]:
    """The texts of the runs of scored tokens."""
    runs: list[list[int]] = []
    previous = False
    for token, is_scored in zip(ids, mask or [True] * len(ids), strict=True):
        if is_scored and not previous:
            runs.append([])
        if is_scored:
            runs[-1].append(token)
        previous = is_scored
    return [text_of(tokenizer, run) for run in runs]


def chosen_texts(subject: ChatTemplateEncoder, tokens: PairTokens) -> list[str]:
    return scored_texts(subject.tokenizer, tokens.chosen, tokens.chosen_scored)


def rejected_texts(subject: ChatTemplateEncoder, tokens: PairTokens) -> list[str]:
    return scored_texts(subject.tokenizer, tokens.rejected, tokens.rejected_scored)


LONG = "No.\n\n一二三：`x = {1: 2}`\n- Two😀"
PROMPT = Prompt((user("Q1"), assistant("A1"), user("Q2\n")))
SEVERAL = make_pair(PROMPT, (assistant(LONG), user("Q3"), assistant("Noo")), (assistant("No"),))
DIALOGUES = {"one": PairExample.of_texts(PROMPT, LONG, "No"), "several": SEVERAL}


@pytest.mark.parametrize("mask_history", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_scored_tokens_are_the_text_of_the_assistant_and_its_end_token(
    folder: Path, name: str, mask_history: bool
) -> None:
    template, subject = TEMPLATES[name], encoder(folder, name, mask_history=mask_history)

    def written(text: str, is_last: bool) -> str:
        frame = FRAME if name == "qwen3" and is_last else ""
        return f"{template.before}{frame}{text}{template.end}"

    history = [] if mask_history else [written("A1", False)]
    tokens = subject.pair(SEVERAL)
    assert chosen_texts(subject, tokens) == [*history, written(LONG, False), written("Noo", True)]
    assert rejected_texts(subject, tokens) == [*history, written("No", True)]
    assert not tokens.is_prompt_changed and tokens.is_turn_changed == (name == "qwen3")
    complete = text_of(subject.tokenizer, tokens.prompt + tokens.chosen)
    assert complete.endswith(written("Noo", True)) and complete.count("A1") == 1
    one = subject.pair(DIALOGUES["one"])
    assert chosen_texts(subject, one) == [*history, written(LONG, True)]
    assert (one.chosen_scored is None) == mask_history


def messages(turns: tuple[Turn, ...]) -> list[dict[str, Any]]:
    return [write_message(turn) for turn in turns]


@pytest.mark.parametrize("name", TEMPLATES)
def test_scored_tokens_are_those_that_transformers_masks(folder: Path, name: str) -> None:
    """The `generation` blocks of the templates say what the model writes; what is scored must be the same tokens."""
    subject = encoder(folder, name, mask_history=False)
    tokens = subject.pair(SEVERAL)
    tokenizer = tokenizer_of(folder, name)
    for response, own, mask in (
        (SEVERAL.chosen, tokens.chosen, tokens.chosen_scored),
        (SEVERAL.rejected, tokens.rejected, tokens.rejected_scored),
    ):
        dialogue = messages((*PROMPT.turns, *response))
        reference = tokenizer.apply_chat_template(
            dialogue, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids = tokens.prompt + own
        assert ids == reference["input_ids"][: len(ids)]
        scored = [False] * len(tokens.prompt) + (mask or [True] * len(own))
        assert scored == [bool(value) for value in reference["assistant_masks"][: len(ids)]]
        assert not any(reference["assistant_masks"][len(ids) :])


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_response_of_one_message_ends_as_the_template_does_unless_asked_otherwise(folder: Path, name: str) -> None:
    subject = encoder(folder, name, response_end="template")
    rendered = tokenizer_of(folder, name).apply_chat_template(
        messages((*PROMPT.turns, assistant(LONG))), tokenize=False
    )
    tokens = subject.pair(DIALOGUES["one"])
    assert tokens.chosen_scored is tokens.rejected_scored is None
    assert text_of(subject.tokenizer, tokens.prompt + tokens.chosen) == rendered
    assert tokens.prompt == encoder(folder, name).pair(DIALOGUES["one"]).prompt
    several = subject.pair(SEVERAL)
    assert text_of(subject.tokenizer, several.prompt + several.chosen).endswith(chosen_texts(subject, several)[-1])


def test_templates_without_an_end_token_are_reported(folder: Path) -> None:
    silent = {name for name in TEMPLATES if encoder(folder, name).note}
    assert silent == {"glm4", "baichuan2", "minicpm"}


# Tools

CALL = ToolCall("weather", '{"city": "Köln"}', "call00001")
CALLING = assistant("", tool_calls=(CALL,))
RESULT = Turn("observation", "21", name="weather", tool_call_id="call00001")
WITH_TOOLS = Prompt((user("Q"),), tools=TOOLS)
CALLS = {
    "qwen2_5": '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call><|im_end|>',
    "qwen3": '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call><|im_end|>',
    "llama3": '{"name": "weather", "parameters": {"city": "Köln"}}<|eot_id|>',
    "mistral": '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Köln"}, "id": "call00001"}]</s>',
    "deepseek3": '<｜tool▁call▁begin｜>weather\n{"city": "Köln"}<｜tool▁call▁end｜><｜end▁of▁sentence｜>',
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_are_scored_and_results_are_not(folder: Path, name: str) -> None:
    subject, before = encoder(folder, name), TEMPLATES[name].before
    end = TEMPLATES[name].end
    pair = make_pair(WITH_TOOLS, (CALLING, RESULT, assistant("21 degrees")), (assistant("No idea"),))
    tokens = subject.pair(pair)
    frame = FRAME if name == "qwen3" else ""
    assert chosen_texts(subject, tokens) == [CALLS[name], f"{before}{frame}21 degrees{end}"]
    assert rejected_texts(subject, tokens) == [f"{before}{frame}No idea{end}"]
    assert '"name": "weather"' in text_of(subject.tokenizer, tokens.prompt)
    unscored = [t for t, is_scored in zip(tokens.chosen, tokens.chosen_scored or [], strict=True) if not is_scored]
    assert "21" in text_of(subject.tokenizer, unscored)
    assert subject.prompt(WITH_TOOLS) == tokens.prompt


@pytest.mark.parametrize("name", CALLS)
def test_dialogues_that_branch_after_a_result_are_scored_from_there(folder: Path, name: str) -> None:
    subject, template = encoder(folder, name), TEMPLATES[name]
    pair = make_pair(WITH_TOOLS, (CALLING, RESULT, assistant("21")), (CALLING, RESULT, assistant("No")))
    assert pair.prompt.turns == (user("Q"), CALLING, RESULT) and pair.rejected == (assistant("No"),)
    tokens = subject.pair(pair)
    frame = FRAME if name == "qwen3" else ""
    assert chosen_texts(subject, tokens) == [f"{template.before}{frame}21{template.end}"]
    assert CALLS[name] in text_of(subject.tokenizer, tokens.prompt)


@pytest.mark.parametrize("name", sorted(TEMPLATES.keys() - CALLS.keys()))
def test_a_template_that_leaves_out_tools_drops_the_row(folder: Path, name: str) -> None:
    subject = encoder(folder, name)
    for pair in (
        make_pair(WITH_TOOLS, (assistant("A"),), (assistant("B"),)),
        make_pair(Prompt((user("Q"),)), (CALLING,), (assistant("B"),)),
    ):
        with pytest.raises(RowDropped, match="the chat template does not render") as dropped:
            subject.pair(pair)
        assert dropped.value.reason == "tools"


def test_calls_beside_a_content_are_refused_where_the_template_drops_them(folder: Path) -> None:
    both = replace(CALLING, content="Let me see.")
    pair = make_pair(WITH_TOOLS, (both, RESULT, assistant("21")), (assistant("B"),))
    with pytest.raises(RowDropped, match="does not render calls of tools beside a content"):
        encoder(folder, "deepseek3").pair(pair)
    subject = encoder(folder, "qwen2_5")
    assert chosen_texts(subject, subject.pair(pair))[0] == f"Let me see.\n{CALLS['qwen2_5']}"


def test_what_a_template_demands_of_calls_is_its_own_sentence(folder: Path) -> None:
    unnamed = replace(CALLING, tool_calls=(replace(CALL, id=""),))
    with pytest.raises(RowDropped, match="ids have 9 characters") as dropped:
        encoder(folder, "mistral").pair(make_pair(WITH_TOOLS, (unnamed,), (assistant("B"),)))
    assert dropped.value.reason == "refused_by_template"


def test_a_reference_response_has_its_calls(folder: Path) -> None:
    assert encoder(folder, "qwen2_5").reference(CALLING) == CALLS["qwen2_5"].removesuffix("<|im_end|>")


# Templates that write a message differently once others follow


@pytest.mark.parametrize(
    ("first", "follows", "lost"),
    [
        (assistant("A", thought="hm"), user("Q2"), True),
        (assistant("<think>hm</think>A"), user("Q2"), True),
        (assistant("A"), user("Q2"), False),
        (replace(CALLING, thought="hm"), RESULT, False),
        (CALLING, RESULT, False),
    ],
)
def test_a_scored_thought_that_a_later_question_removes_drops_the_row(
    folder: Path, first: Turn, follows: Turn, lost: bool
) -> None:
    subject = encoder(folder, "qwen3")
    pair = make_pair(WITH_TOOLS, (first, follows, assistant("B")), (assistant("C"),))
    if lost:
        with pytest.raises(RowDropped, match="hm") as dropped:
            subject.pair(pair)
        assert dropped.value.reason == "changed_by_later_turn"
        return
    tokens = subject.pair(pair)
    # Only the empty thought, which is written into the last message alone, differs.
    assert tokens.is_turn_changed == (not first.thought)
    assert ("hm" in chosen_texts(subject, tokens)[0]) == bool(first.thought)


def test_a_thought_before_the_branch_may_be_removed(folder: Path) -> None:
    prompt = Prompt((user("Q1"), assistant("A1", thought="hm"), user("Q2")))
    pair = make_pair(prompt, (assistant("A"),), (assistant("B"),))
    subject = encoder(folder, "qwen3")
    assert "hm" not in text_of(subject.tokenizer, subject.pair(pair).prompt)
    with pytest.raises(RowDropped) as dropped:
        encoder(folder, "qwen3", mask_history=False).pair(pair)
    assert dropped.value.reason == "changed_by_later_turn"


def test_tools_that_move_to_the_last_question_are_noticed(folder: Path) -> None:
    """Mistral's template writes them before the last question, so earlier responses were generated otherwise."""
    pair = make_pair(WITH_TOOLS, (assistant("A"), user("Q2"), assistant("B")), (assistant("C"),))
    assert encoder(folder, "mistral").pair(pair).is_prompt_changed
    later = make_pair(
        replace(WITH_TOOLS, turns=PROMPT.turns), (assistant("A"), user("Q3"), assistant("B")), (assistant("C"),)
    )
    assert encoder(folder, "mistral").pair(later).is_prompt_changed


def test_the_end_of_a_changed_message_must_be_certain(folder: Path) -> None:
    pair = make_pair(PROMPT, (assistant("A<|im_end|>\nB"), user("Q3"), assistant("C")), (assistant("D"),))
    with pytest.raises(RowDropped, match="the end of a message is not found") as dropped:
        encoder(folder, "qwen3").pair(pair)
    assert dropped.value.reason == "changed_by_later_turn"
    subject = encoder(folder, "qwen2_5")
    assert chosen_texts(subject, subject.pair(pair)) == ["A<|im_end|>\nB<|im_end|>", "C<|im_end|>"]


def test_without_thinking_the_prompt_ends_with_the_empty_thought(folder: Path) -> None:
    subject = encoder(folder, "qwen3", enable_thinking=False)
    tokens = subject.pair(DIALOGUES["one"])
    assert text_of(subject.tokenizer, tokens.prompt).endswith(FRAME)
    assert chosen_texts(subject, tokens) == [f"{LONG}<|im_end|>"]
