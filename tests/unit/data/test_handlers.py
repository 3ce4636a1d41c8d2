"""Raw rows of every style, read as pairs and prompts, and the rows that are left out."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindspeed_dpo.data.preprocessing.column_map import map_key_problems, resolve_columns
from mindspeed_dpo.data.preprocessing.handler_table import (
    HANDLERS,
    MATH_17K_KEYS,
    UNSUPPORTED_HANDLERS,
    handler_problem,
)
from mindspeed_dpo.data.tokenization.dialogue_parsing import OPENAI_TAGS
from mindspeed_dpo.data.tokenization.examples import MALFORMED, PairExample, Prompt, PromptExample, RowDropped, Turn

ALPACA, SHAREGPT = "AlpacaStylePairwiseHandler", "SharegptStylePairwiseHandler"
BETTER, DIALOGUE = "BetterResponsePairwiseHandler", "DialoguePairwiseHandler"


def read(handler_name: str, row: dict[str, Any], map_keys: dict[str, Any] | None = None) -> Any:
    handler = HANDLERS[handler_name]
    assert not map_key_problems(handler.columns, map_keys or {})
    return handler.read(row, resolve_columns(handler.columns, map_keys or {}, list(row), "data"))


def reason(handler_name: str, row: dict[str, Any], map_keys: dict[str, Any] | None = None) -> str:
    with pytest.raises(RowDropped) as dropped:
        read(handler_name, row, map_keys)
    return dropped.value.reason


def texts(example: PairExample) -> tuple[str, str]:
    """The texts of the chosen and the rejected response, of one message each."""
    (chosen,), (rejected,) = example.responses
    return chosen.content, rejected.content


def human(text: str) -> dict[str, str]:
    return {"from": "human", "value": text}


def gpt(text: str) -> dict[str, str]:
    return {"from": "gpt", "value": text}


def prompt(*texts: str, system: str = "") -> Prompt:
    roles = ("user", "assistant")
    return Prompt(tuple(Turn(roles[place % 2], text) for place, text in enumerate(texts)), system)


def reference(text: str) -> Turn:
    return Turn("assistant", text)


# Names


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("AlpacaStylePairwiseHandle", "did you mean AlpacaStylePairwiseHandler"),
        ("os", "handler_name 'os' is unknown"),
        ("GeneralPretrainHandler", "it prepares data for pre-training"),
        ("AlpacaStyleInstructionHandler", "supervised fine-tuning"),
        ("", "handler_name is missing"),
    ],
)
def test_unknown_and_foreign_handlers_get_a_sentence(name: str, sentence: str) -> None:
    assert sentence in str(handler_problem(name))


def test_no_handler_is_both_supported_and_rejected() -> None:
    assert not set(HANDLERS) & set(UNSUPPORTED_HANDLERS)
    assert all(handler_problem(name) is None for name in HANDLERS)


# Alpaca


def test_alpaca_rows_join_prompt_query_history_and_system() -> None:
    row = {"q": "Q", "extra": "E", "sys": "S", "past": [["q0", "a0"]], "chosen": "good", "rejected": "bad"}
    map_keys = {"prompt": "q", "query": "extra", "system": "sys", "history": "past"}
    assert read(ALPACA, row, map_keys) == PairExample.of_texts(prompt("q0", "a0", "Q\nE", system="S"), "good", "bad")


def test_a_default_column_that_is_absent_counts_as_none() -> None:
    row = {"instruction": "Q", "chosen": "good", "rejected": "bad"}
    assert read(ALPACA, row).prompt == prompt("Q")


def test_a_column_that_later_rows_have_is_used_and_is_empty_elsewhere() -> None:
    """Neither the rows that were searched for columns nor a single row determine whether `input` is read."""
    handler = HANDLERS[ALPACA]
    columns = resolve_columns(handler.columns, {}, ["instruction", "chosen", "rejected"], "data")
    row = {"instruction": "Q", "chosen": "good", "rejected": "bad"}
    prompts = [handler.read(each, columns).prompt for each in ({**row, "input": "E"}, row, {**row, "input": None})]
    assert prompts == [prompt("Q\nE"), prompt("Q"), prompt("Q")]
    named = resolve_columns(handler.columns, {"query": "extra"}, [*row, "extra"], "data")
    assert handler.read(row, named).prompt == prompt("Q")


def test_an_empty_map_key_means_no_column() -> None:
    row = {"instruction": "Q", "input": "E", "chosen": "good", "rejected": "bad"}
    assert read(ALPACA, row, {"query": ""}).prompt == prompt("Q")
    assert read(ALPACA, row, {"query": None}).prompt == prompt("Q")


MESSAGES = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "last"}]


@pytest.mark.parametrize(
    ("chosen", "rejected", "map_keys", "expected"),
    [
        ("good", "bad", {}, ("good", "bad")),
        (["good", "second"], ["bad", "second"], {}, ("good", "bad")),
        (["good"], ["bad"], {}, ("good", "bad")),
        (["good", "bad"], None, {"rejected": "chosen"}, ("good", "bad")),
        (["good", "bad", "worse"], None, {"rejected": "chosen"}, ("good", "bad")),
        (MESSAGES, [{"role": "assistant", "content": "bad"}], {}, ("last", "bad")),
    ],
)
def test_responses_come_in_several_forms(
    chosen: Any, rejected: Any, map_keys: dict[str, str], expected: tuple[str, str]
) -> None:
    assert texts(read(ALPACA, {"instruction": "Q", "chosen": chosen, "rejected": rejected}, map_keys)) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"chosen": ""}, "empty_response"),
        ({"rejected": "  \n"}, "empty_response"),
        ({"rejected": None}, "empty_response"),
        ({"chosen": []}, "empty_response"),
        ({"chosen": "bad"}, "identical_responses"),
        ({"instruction": ""}, "empty_prompt"),
        ({"instruction": None}, "empty_prompt"),
        ({"instruction": 3}, "not_text"),
        ({"chosen": 3}, "bad_turns"),
        ({"chosen": [{"role": "user", "content": "x"}]}, "bad_turns"),
    ],
)
def test_rows_that_cannot_be_used_are_dropped_by_reason(change: dict[str, Any], expected: str) -> None:
    assert reason(ALPACA, {"instruction": "Q", "chosen": "good", "rejected": "bad", **change}) == expected


def test_a_column_missing_in_one_row_is_malformed() -> None:
    handler = HANDLERS[ALPACA]
    columns = resolve_columns(handler.columns, {}, ["instruction", "chosen", "rejected"], "data")
    with pytest.raises(RowDropped) as dropped:
        handler.read({"instruction": "Q", "chosen": "good"}, columns)
    assert dropped.value.reason == "missing_column" and "missing_column" in MALFORMED


# map_keys


def test_map_keys_are_checked_without_data() -> None:
    spec = HANDLERS[SHAREGPT].columns
    problems = map_key_problems(spec, {"message": "x", "chosen": 3, "tags": {"role": "x"}})
    assert len(problems) == 3
    assert "did you mean messages" in problems[0]
    assert "chosen should be a column name, got 3" in problems[1]
    assert "'role' is not a tag" in problems[2]


def test_a_column_that_is_not_in_the_data_lists_those_that_are() -> None:
    with pytest.raises(
        ValueError, match=r"prompt should come from column 'questoin'; did you mean question.*chosen, q"
    ):
        resolve_columns(HANDLERS[ALPACA].columns, {"prompt": "questoin"}, ["question", "chosen", "rejected"], "x.json")
    with pytest.raises(ValueError, match=r"prompt should come from column 'instruction'"):
        resolve_columns(HANDLERS[ALPACA].columns, {}, ["question", "chosen", "rejected"], "x.json")
    with pytest.raises(ValueError, match="prompt needs a column"):
        resolve_columns(HANDLERS[ALPACA].columns, {"prompt": ""}, ["chosen", "rejected"], "x.json")


# ShareGPT and messages


def test_sharegpt_rows_keep_all_turns() -> None:
    row = {"conversations": [human("Q1"), gpt("A1"), human("Q2")], "chosen": gpt("good"), "rejected": gpt("bad")}
    assert read(SHAREGPT, row) == PairExample.of_texts(prompt("Q1", "A1", "Q2"), "good", "bad")


def test_a_leading_system_turn_is_the_system_text() -> None:
    turns = [{"from": "system", "value": "S"}, human("Q")]
    row = {"conversations": turns, "system": "column", "chosen": "good", "rejected": "bad"}
    assert read(SHAREGPT, row, {"system": "system"}).prompt == prompt("Q", system="S")
    row["conversations"] = turns[1:]
    assert read(SHAREGPT, row, {"system": "system"}).prompt == prompt("Q", system="column")


def test_partial_tags_keep_the_other_defaults() -> None:
    row = {"conversations": [{"from": "human", "text": "Q"}], "chosen": "good", "rejected": "bad"}
    assert read(SHAREGPT, row, {"tags": {"content_tag": "text"}}).prompt == prompt("Q")


def test_openai_messages_are_read_with_tags() -> None:
    row = {"messages": MESSAGES[:1], "chosen": [MESSAGES[1]], "rejected": "bad"}
    map_keys = {"messages": "messages", "tags": dict(OPENAI_TAGS)}
    assert read(SHAREGPT, row, map_keys) == PairExample.of_texts(prompt("Q"), "last", "bad")


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([], "empty_prompt"),
        ([gpt("A")], "bad_turns"),
        ([human("Q"), human("Q")], "bad_turns"),
        ([human("Q"), gpt("A")], "bad_turns"),
        ([{"from": "narrator", "value": "x"}], "unknown_role"),
        ([{"role": "user", "content": "x"}], "bad_turns"),
        ("Q", "bad_turns"),
        ([human("Q"), {"from": "function_call", "value": "{}"}, {"from": "observation", "value": "1"}], "tools"),
        ([human("Q"), gpt("A"), {"from": "observation", "value": "1"}], "bad_turns"),
        ([{"from": "system", "value": "S"}], "empty_prompt"),
    ],
)
def test_dialogues_that_break_a_rule_are_dropped(turns: Any, expected: str) -> None:
    assert reason(SHAREGPT, {"conversations": turns, "chosen": "good", "rejected": "bad"}) == expected


# Fields that carry meaning are used, or the row is dropped


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"content": None, "tool_calls": [{"function": {"arguments": '{"a": 1}'}}]}, "tools"),
        ({"tool_calls": [{"name": "f", "arguments": "sun"}]}, "tools"),
        ({"content": "a", "function_call": {"name": "f", "arguments": "[1]"}}, "tools"),
        ({"content": "a", "tool_call_id": "1"}, "tools"),
        ({"content": "a", "functions": [{"name": "f"}]}, "tools"),
        ({"content": "a", "name": "Ann"}, "unsupported_field"),
        ({"content": "a", "refusal": "no"}, "unsupported_field"),
        ({"content": "a", "images": ["x.png"]}, "media"),
        ({"content": "a", "audio": {"id": "x"}}, "media"),
        ({"content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]}, "media"),
        ({"content": [{"type": "text", "text": "a", "image": "x"}]}, "media"),
        ({"content": [7]}, "not_text"),
        ({"content": {"text": "a"}}, "not_text"),
        ({"role": ["assistant"], "content": "a"}, "unknown_role"),
        ({"content": "a", "reasoning_content": 7}, "not_text"),
        ({"content": "a", "reasoning_content": "x", "thinking": "y"}, "unsupported_field"),
    ],
)
def test_fields_without_a_form_in_the_tokens_are_counted(message: dict[str, Any], expected: str) -> None:
    message = {"role": "assistant", **message}
    turns = [{"role": "user", "content": "Q"}, message]
    good = [turns[0], {"role": "assistant", "content": "b"}]
    assert reason(DIALOGUE, {"chosen": turns, "rejected": good}) == expected
    longer = [*turns, {"role": "user", "content": "Q2"}]
    map_keys = {"messages": "messages", "tags": dict(OPENAI_TAGS)}
    assert reason(SHAREGPT, {"messages": longer, "chosen": "a", "rejected": "b"}, map_keys) == expected
    assert reason(ALPACA, {"instruction": "Q", "chosen": message, "rejected": "b"}) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_calls": None, "function_call": {"name": None, "arguments": None}, "name": "", "images": []},
        {"tool_calls": [], "reasoning_content": " ", "weight": 1},
        {"content": [{"type": "text", "text": "goo"}, {"type": "text", "text": "d", "image_url": None}]},
        {"content": ["good"], "id": 7},
    ],
)
def test_fields_that_hold_nothing_do_not_matter(fields: dict[str, Any]) -> None:
    start = {"role": "user", "content": "Q", "tool_calls": None}
    row = {"chosen": [start, {"role": "assistant", "content": "good", **fields}], "rejected": [start, MESSAGES[1]]}
    assert read(DIALOGUE, row) == PairExample.of_texts(prompt("Q"), "good", "last")


def test_thoughts_in_a_field_of_their_own_belong_to_the_response() -> None:
    thought = {"role": "assistant", "content": "good", "reasoning_content": "hm", "thinking": "hm"}
    example = read(DIALOGUE, {"chosen": [MESSAGES[0], thought], "rejected": MESSAGES})
    assert example == PairExample.of_texts(prompt("Q"), "good", "last", chosen_thought="hm")
    same = {"role": "assistant", "content": "good", "reasoning": "well"}
    (rejected,) = read(ALPACA, {"instruction": "Q", "chosen": thought, "rejected": same}).rejected
    assert rejected.thought == "well"


def test_a_response_excluded_from_training_is_counted() -> None:
    excluded = {"role": "assistant", "content": "good", "weight": 0}
    assert reason(ALPACA, {"instruction": "Q", "chosen": excluded, "rejected": "bad"}) == "unsupported_field"
    assert reason(DIALOGUE, {"chosen": [MESSAGES[0], excluded], "rejected": MESSAGES}) == "unsupported_field"
    turns = [MESSAGES[0], excluded, {"role": "user", "content": "Q2"}]
    row = {"chosen": [*turns, MESSAGES[1]], "rejected": [*turns, {"role": "assistant", "content": "bad"}]}
    assert read(DIALOGUE, row).prompt == prompt("Q", "good", "Q2")


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("tools", [{"description": "f"}], "tools"),
        ("functions", "f(x)", "tools"),
        ("images", [b"\x89PNG"], "media"),
        ("image", {"bytes": None, "path": "x.png"}, "media"),
        ("image_path", "x.png", "media"),
        ("audio", "x.wav", "media"),
    ],
)
def test_columns_without_a_form_in_the_tokens_are_counted(column: str, value: Any, expected: str) -> None:
    row = {"instruction": "Q", "prompt": "Q", "conversations": [human("Q")], "chosen": "a", "rejected": "b"}
    row |= {"response_0": "a", "response_1": "b", "better_response_id": 0, "response_2": "c", "preference_strength": 1}
    row |= {"completions": [{"response": "a", "score": 1}, {"response": "b", "score": 2}]}
    dialogue = {"chosen": MESSAGES, "rejected": [MESSAGES[0], {"role": "assistant", "content": "b"}]}
    for name in HANDLERS:
        base = dialogue if name == DIALOGUE else row
        assert reason(name, {**base, column: value}) == expected
        for empty in (None, [], "", "[]"):
            read(name, {**base, column: empty})
        read(name, {**base, column: value}, {column: ""})
    assert read(ALPACA, {**row, column: "Q2"}, {"prompt": column}).prompt == prompt("Q2")


def test_turns_before_a_response_are_those_of_the_prompt() -> None:
    other = [{"role": "user", "content": "Q0"}, MESSAGES[1]]
    assert reason(ALPACA, {"instruction": "Q", "chosen": other, "rejected": "bad"}) == "no_common_prompt"
    row = {"instruction": "Q", "history": [["Q0", "A0"]], "chosen": MESSAGES, "rejected": "bad"}
    assert texts(read(ALPACA, row, {"history": "history"}))[0] == "last"


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=2)
    | st.sampled_from(["user", "assistant", "human", "gpt", "\ud83d", "1", "Human: a\n\nAssistant: b"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            [
                *("role", "content", "from", "value", "text", "type", "weight", "thinking", "name"),
                *("tool_calls", "function", "arguments", "response", "score", "rank"),
            ]
        ),
        inner,
    ),
    max_leaves=8,
)  # fmt: skip
_COLUMNS = ["instruction", "input", "prompt", "conversations", "chosen", "rejected", "history", "output", "tools"]
_COLUMNS += ["response_0", "response_1", "better_response_id", "system", "completions", "response_2", "label"]
_COLUMNS += ["preference_strength"]


@pytest.mark.parametrize("name", HANDLERS)
@given(row=st.dictionaries(st.sampled_from(_COLUMNS), _VALUES))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_no_value_stops_all_rows(name: str, row: dict[str, Any]) -> None:
    """Whatever a row holds, it becomes an example or is dropped."""
    handler = HANDLERS[name]
    optional = {key: key for key in ("system", "history") if key in handler.columns.defaults}
    columns = resolve_columns(handler.columns, optional, _COLUMNS, "data")
    try:
        handler.read(row, columns)
    except RowDropped as dropped:
        assert dropped.reason


# Two responses and the number of the better one


@pytest.mark.parametrize(("better", "expected"), [(0, ("a", "b")), (1, ("b", "a")), ("1", ("b", "a"))])
def test_the_better_response_is_chosen(better: Any, expected: tuple[str, str]) -> None:
    row = {"prompt": "Q", "response_0": "a", "response_1": "b", "better_response_id": better}
    assert read(BETTER, row) == PairExample.of_texts(prompt("Q"), *expected)


@pytest.mark.parametrize(("better", "expected"), [(None, "no_preference"), (-1, "no_preference"), (2, "not_text")])
def test_a_row_without_a_better_response_is_dropped(better: Any, expected: str) -> None:
    row = {"prompt": "Q", "response_0": "a", "response_1": "b", "better_response_id": better}
    assert reason(BETTER, row) == expected


@pytest.mark.parametrize(
    ("better", "expected"),
    [
        *[(value, 0) for value in (0.0, "0", "0.0", False, "False", Decimal(0))],
        *[(value, 1) for value in (1.0, "1", " 1.0", True, "true", Decimal("1.0"))],
        *[(value, "no_preference") for value in (math.nan, "", "null", "None", "NaN", -1.0, "-1")],
        *[(value, "not_text") for value in (2, 0.5, "a", "2", math.inf, [1], {"id": 1}, b"1")],
    ],
)
def test_the_better_response_may_have_any_type_that_tools_give_it(better: Any, expected: int | str) -> None:
    row = {"prompt": "Q", "response_0": "a", "response_1": "b", "better_response_id": better}
    if isinstance(expected, str):
        assert reason(BETTER, row) == expected
    else:
        assert texts(read(BETTER, row))[0] == "ab"[expected]


def test_response_columns_can_be_named() -> None:
    row = {"prompt": "Q", "x": "a", "y": "b", "safer": 1}
    assert texts(read(BETTER, row, {"responses": ["x", "y"], "better": "safer"})) == ("b", "a")


# Complete dialogues


def test_message_lists_share_their_leading_turns() -> None:
    start = [{"role": "system", "content": "S"}, *MESSAGES, {"role": "user", "content": "Q2"}]
    row = {
        "prompt": "ignored",
        "chosen": [*start, {"role": "assistant", "content": "good"}],
        "rejected": [*start, {"role": "assistant", "content": "bad"}],
    }
    assert read(DIALOGUE, row) == PairExample.of_texts(prompt("Q", "last", "Q2", system="S"), "good", "bad")


def test_transcripts_are_cut_at_turns() -> None:
    start = "\n\nHuman: Hi there\n\nAssistant: Hello\n\nHuman: Two\n\nlines: Human: x\n\nAssistant:"
    row = {"chosen": f"{start} The sky is blue", "rejected": f"{start} The sky is black"}
    expected = PairExample.of_texts(
        prompt("Hi there", "Hello", "Two\n\nlines: Human: x"), "The sky is blue", "The sky is black"
    )
    assert read(DIALOGUE, row) == expected


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("\n\nHuman: a\n\nAssistant: x", "\n\nHuman: b\n\nAssistant: y", "no_common_prompt"),
        (
            "\n\nHuman: a\n\nAssistant: x\n\nHuman: q\n\nAssistant: z",
            "\n\nHuman: a\n\nAssistant: x",
            "no_common_prompt",
        ),
        (
            "\n\nHuman: a\n\nAssistant: x\n\nHuman: q\n\nAssistant: z",
            "\n\nHuman: a\n\nAssistant: x\n\nHuman: r\n\nAssistant: z",
            "no_common_prompt",
        ),
        ("\n\nHuman: a\n\nAssistant: x\n\nHuman: q", "\n\nHuman: a\n\nAssistant: y", "bad_turns"),
        ("\n\nHuman: a\n\nAssistant: x", "\n\nHuman: a\n\nAssistant:", "empty_response"),
        ("\n\nHuman: a\n\nAssistant: x", "\n\nHuman: a\n\nAssistant: x", "identical_responses"),
        ("no speaker", "\n\nHuman: a\n\nAssistant: x", "bad_turns"),
        ("", "\n\nHuman: a\n\nAssistant: x", "empty_response"),
        ([], MESSAGES, "empty_response"),
        ("\n\nAssistant: x", "\n\nAssistant: y", "empty_prompt"),
    ],
)
def test_dialogues_without_a_common_question_are_dropped(chosen: Any, rejected: Any, expected: str) -> None:
    assert reason(DIALOGUE, {"chosen": chosen, "rejected": rejected}) == expected


# Prompts


@pytest.mark.parametrize("name", ["PPOAlpacaStyleInstructionHandler", "R1AlpacaStyleInstructionHandler"])
def test_prompts_need_no_response(name: str) -> None:
    assert read(name, {"instruction": "Q"}) == PromptExample(prompt("Q"), reference(""))
    assert read(name, {"instruction": "Q", "output": ["A", "B"]}) == PromptExample(prompt("Q"), reference("A"))
    assert read(name, {"p": "Q", "a": 42}, {"prompt": "p", "response": "a"}).reference == reference("42")


def test_rows_of_math_17k_are_read_as_its_refusal_says() -> None:
    row = {"prompt": [{"role": "user", "content": "2+2?"}], "reward_model": {"ground_truth": "4", "style": "rule"}}
    name = "R1SharegptStyleInstructionHandler"
    assert read(name, row, MATH_17K_KEYS) == PromptExample(prompt("2+2?"), reference(""))
    refusal = str(handler_problem("Math17kAlpacaStyleInstructionHandler"))
    assert (
        json.dumps(MATH_17K_KEYS) in refusal and name in refusal and "dataset_additional_keys=reward_model" in refusal
    )


@pytest.mark.parametrize("name", ["PPOSharegptStyleInstructionHandler", "R1SharegptStyleInstructionHandler"])
def test_prompts_keep_earlier_responses_and_part_with_the_last(name: str) -> None:
    turns = [human("Q1"), gpt("A1"), human("Q2")]
    assert read(name, {"conversations": turns}) == PromptExample(prompt("Q1", "A1", "Q2"), reference(""))
    expected = PromptExample(prompt("Q1", "A1", "Q2"), reference("A2"))
    assert read(name, {"conversations": [*turns, gpt("A2")]}) == expected
    thinking = {**gpt("A2"), "reasoning": "hm"}
    assert read(name, {"conversations": [*turns, thinking]}).reference == Turn("assistant", "A2", "hm")
