"""Messages with tools in the forms in which data has them: one meaning, one result; what has no meaning is dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mindspeed_dpo.data.preprocessing.column_map import resolve_columns
from mindspeed_dpo.data.preprocessing.handler_table import HANDLERS
from mindspeed_dpo.data.tokenization.dialogue_parsing import OPENAI_TAGS, make_prompt, read_turns, write_messages
from mindspeed_dpo.data.tokenization.encoders import make_encoder
from mindspeed_dpo.data.tokenization.examples import PairExample, Prompt, PromptExample, RowDropped, ToolCall, Turn
from mindspeed_dpo.data.tokenization.tokenizer import load_tokenizer
from mindspeed_dpo.data.tokenization.tool_fields import read_tool_calls, read_tools
from tests.support.tokenizers import save_tokenizer

SHAREGPT, DIALOGUE = "SharegptStylePairwiseHandler", "DialoguePairwiseHandler"
FUNCTION = {"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {"city": {}}}}
TOOLS = json.dumps([{"type": "function", "function": FUNCTION}])
CALL = ToolCall("weather", '{"city": "Köln", "days": [1, null]}')
ARGUMENTS = {"city": "Köln", "days": [1, None]}
QUESTION = {"role": "user", "content": "Q"}
RESULT = {"role": "tool", "content": "21"}


def read(handler_name: str, row: dict[str, Any], map_keys: dict[str, Any] | None = None) -> Any:
    handler = HANDLERS[handler_name]
    return handler.read(row, resolve_columns(handler.columns, map_keys or {}, list(row), "data"))


def calling(**fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, **fields}


@pytest.mark.parametrize(
    "message",
    [
        calling(tool_calls=[{"type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}]),
        calling(tool_calls=[{"type": "function", "function": {"name": "weather", "arguments": json.dumps(ARGUMENTS)}}]),
        calling(tool_calls=[{"name": "weather", "arguments": ARGUMENTS}]),
        calling(tool_calls=json.dumps([{"name": "weather", "arguments": ARGUMENTS}]), content=""),
        calling(tool_calls=[json.dumps({"name": "weather", "arguments": ARGUMENTS})]),
        calling(function_call={"name": "weather", "arguments": json.dumps(ARGUMENTS, indent=1)}, tool_calls=None),
        {"role": "function_call", "content": json.dumps({"name": "weather", "arguments": ARGUMENTS})},
        {"role": "tool_call", "content": json.dumps([{"name": "weather", "arguments": ARGUMENTS}])},
        # As an Arrow table has it, in which every object has the keys of all.
        calling(tool_calls=[{"id": None, "function": {"name": "weather", "arguments": {**ARGUMENTS, "unit": None}}}]),
    ],
)
@pytest.mark.parametrize("result", [RESULT, {"role": "function", "name": "", "content": "21"}])
def test_a_call_is_the_same_in_every_form(message: dict[str, Any], result: dict[str, Any]) -> None:
    turns = read_turns([QUESTION, message, result], OPENAI_TAGS, "the dialogue")
    assert turns == [Turn("user", "Q"), Turn("assistant", "", tool_calls=(CALL,)), Turn("observation", "21")]


def test_names_and_identifiers_stay_with_their_result() -> None:
    calls = [{"id": f"call{n}", "function": {"name": "f", "arguments": ""}} for n in (1, 2)]
    results = [{"role": "tool", "content": str(n), "name": "f", "tool_call_id": f"call{n}"} for n in (1, 2)]
    prompt = make_prompt(read_turns([QUESTION, calling(tool_calls=calls), *results], OPENAI_TAGS, "the dialogue"))
    assert prompt.turns[1].tool_calls == (ToolCall("f", "{}", "call1"), ToolCall("f", "{}", "call2"))
    assert prompt.turns[2:] == tuple(Turn("observation", str(n), name="f", tool_call_id=f"call{n}") for n in (1, 2))
    written = write_messages(prompt)
    assert written[1]["tool_calls"][1] == {
        "id": "call2", "type": "function", "function": {"name": "f", "arguments": "{}"}
    }  # fmt: skip
    assert written[2:] == results
    assert read_turns(written, OPENAI_TAGS, "the dialogue") == list(prompt.turns)


@pytest.mark.parametrize(
    "tools",
    [
        TOOLS,
        json.loads(TOOLS),
        [FUNCTION],
        FUNCTION,
        json.dumps(FUNCTION),
        [json.dumps({"type": "function", "function": FUNCTION})],
        [{"type": "function", "function": {**FUNCTION, "parameters": json.dumps(FUNCTION["parameters"])}}],
        [{**FUNCTION, "strict": None}],
    ],
)
def test_tools_are_the_same_in_every_form(tools: Any) -> None:
    assert json.loads(read_tools(tools)) == json.loads(TOOLS)
    row = {"conversations": [{"from": "human", "value": "Q"}], "tools": tools, "chosen": "a", "rejected": "b"}
    assert read(SHAREGPT, row) == PairExample.of_texts(Prompt((Turn("user", "Q"),), tools=TOOLS), "a", "b")
    assert read("PPOSharegptStyleInstructionHandler", row) == PromptExample(Prompt((Turn("user", "Q"),), tools=TOOLS))


@pytest.mark.parametrize(
    "tools", ["weather(city)", "[1]", [], [{"description": "d"}], [{"name": ""}], 7, [{"name": "f", "x": {1}}]]
)
def test_tools_without_a_form_are_dropped(tools: Any) -> None:
    with pytest.raises(RowDropped) as dropped:
        read_tools(tools)
    assert dropped.value.reason == "tools" and dropped.value.detail


@pytest.mark.parametrize(
    "call",
    [
        {"name": "f", "arguments": "{"},
        {"name": "f", "arguments": "[1]"},
        {"name": "f", "arguments": 7},
        {"name": None, "arguments": {}},
        {"name": "f", "id": 7},
        {"name": "f", "arguments": {"x": float("nan")}},
        "f(x)",
    ],
)
def test_calls_without_a_form_are_dropped(call: Any) -> None:
    with pytest.raises(RowDropped) as dropped:
        read_tool_calls([call])
    assert dropped.value.reason == "tools" and dropped.value.detail


def test_two_columns_of_tools_are_refused_by_name() -> None:
    row = {"conversations": [{"from": "human", "value": "Q"}], "chosen": "a", "rejected": "b"}
    with pytest.raises(RowDropped, match="the columns tools and functions both define tools"):
        read(SHAREGPT, {**row, "tools": TOOLS, "functions": [FUNCTION]})
    with pytest.raises(RowDropped, match=r"column 'tools': .*set tools to an empty text in map_keys"):
        read(SHAREGPT, {**row, "tools": "none"})


# Responses of several messages


def test_a_response_may_be_several_messages() -> None:
    call = {"from": "function_call", "value": '{"name": "weather", "arguments": {}}'}
    chosen = [call, {"from": "observation", "value": "21"}, {"from": "gpt", "value": "21 degrees"}]
    rejected = {"from": "gpt", "value": "b"}
    row = {"conversations": [{"from": "human", "value": "Q"}], "chosen": chosen, "rejected": rejected}
    example = read(SHAREGPT, row)
    assert [turn.role for turn in example.chosen] == ["assistant", "observation", "assistant"]
    assert (example.chosen[0].tool_calls, example.rejected) == ((ToolCall("weather"),), (Turn("assistant", "b"),))


def test_dialogues_branch_at_the_message_that_differs() -> None:
    start = [{"role": "system", "content": "S"}, QUESTION, calling(function_call={"name": "f", "arguments": "{}"})]
    good = [*start, RESULT, {"role": "assistant", "content": "good"}]
    bad = [*start, RESULT, {"role": "assistant", "content": "bad"}, QUESTION, {"role": "assistant", "content": "c"}]
    example = read(DIALOGUE, {"chosen": good, "rejected": bad, "tools": [FUNCTION]})
    assert [turn.role for turn in example.prompt.turns] == ["user", "assistant", "observation"]
    assert (example.prompt.system, json.loads(example.prompt.tools)) == ("S", json.loads(TOOLS))
    assert [turn.content for turn in example.rejected] == ["bad", "Q", "c"]
    alpaca = {"instruction": "Q", "system": "S", "chosen": good[2:], "rejected": bad[1:], "tools": [FUNCTION]}
    assert read("AlpacaStylePairwiseHandler", alpaca, {"system": "system"}) == example


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason", "detail"),
    [
        ([QUESTION, RESULT], None, "bad_turns", "does not end with a response"),
        ([QUESTION, {"role": "assistant", "content": "A"}, RESULT, {"role": "assistant", "content": "B"}], None,
         "bad_turns", "turn 2 has the role observation, expected user"),
        ([QUESTION, calling(function_call={"name": "f"}), RESULT, calling(content="A")],
         [QUESTION, calling(function_call={"name": "f"}), {**RESULT, "content": "22"}, calling(content="B")],
         "no_common_prompt", "differ before the assistant does, in message 3"),
        ([QUESTION, calling(function_call={"name": "f"}), RESULT, calling(content="A")],
         [QUESTION, calling(function_call={"name": "f"})], "no_common_prompt", "only has messages that the other has"),
        ([QUESTION, calling(content="A"), QUESTION, calling(content=" ")], None, "empty_response", "chosen is empty"),
    ],
)  # fmt: skip
def test_dialogues_without_a_branch_of_the_assistant_are_dropped(
    chosen: Any, rejected: Any, reason: str, detail: str
) -> None:
    other = rejected or [QUESTION, {"role": "assistant", "content": "b"}]
    with pytest.raises(RowDropped, match=detail) as dropped:
        read(DIALOGUE, {"chosen": chosen, "rejected": other})
    assert dropped.value.reason == reason


# Prompt types without a form for tools


@pytest.mark.parametrize("prompt_type", ["qwen", "plain"])
def test_named_templates_and_plain_text_refuse_tools_with_a_sentence(tmp_path: Path, prompt_type: str) -> None:
    encoder = make_encoder(load_tokenizer(save_tokenizer(tmp_path, special=["<|im_end|>"])), prompt_type)
    with_tools = Prompt((Turn("user", "Q"),), tools=TOOLS)
    call = Turn("assistant", "", tool_calls=(CALL,))
    after_call = Prompt((Turn("user", "Q"), call, Turn("observation", "21")))
    refused = [
        lambda: encoder.pair(PairExample.of_texts(with_tools, "a", "b")),
        lambda: encoder.pair(PairExample(Prompt((Turn("user", "Q"),)), (call,), (Turn("assistant", "b"),))),
        lambda: encoder.prompt(after_call),
        lambda: encoder.reference(call),
    ]
    for refuse in refused:
        with pytest.raises(RowDropped, match=f"prompt_type {prompt_type} has no form for tools; use") as dropped:
            refuse()
        assert dropped.value.reason == "tools"
