"""The form of raw rows is recognised as published sets have it; several or none stop with the choices."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mindspeed_dpo.data.preprocessing.readers import read_file
from mindspeed_dpo.data.recognition.recognise import Kind, Recognised, UnrecognisedRowsError, recognise
from mindspeed_dpo.data.recognition.sample_text import sample_lines
from mindspeed_dpo.data.tokenization.examples import PairExample, PromptExample, RankedExample, RowDropped

Q, GOOD, BAD = "What is 2 + 2?", "It is 4.", "It is 5."


def openai(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def sharegpt(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


def assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


PAIRS: dict[str, tuple[dict[str, Any], str]] = {
    "TRL, texts": ({"prompt": Q, "chosen": GOOD, "rejected": BAD}, "AlpacaStylePairwiseHandler"),
    "TRL, conversational": (
        {"prompt": openai(Q), "chosen": assistant(GOOD), "rejected": assistant(BAD)},
        "SharegptStylePairwiseHandler",
    ),
    "TRL, implicit prompt": ({"chosen": openai(Q, GOOD), "rejected": openai(Q, BAD)}, "DialoguePairwiseHandler"),
    "UltraFeedback binarized": (
        {"prompt": Q, "prompt_id": "a", "chosen": openai(Q, GOOD), "rejected": openai(Q, BAD),
         "messages": openai(Q, GOOD), "score_chosen": 8.0, "score_rejected": 3.0},
        "DialoguePairwiseHandler",
    ),
    "Alpaca": (
        {"instruction": "Add.", "input": Q, "chosen": GOOD, "rejected": BAD, "output": GOOD},
        "AlpacaStylePairwiseHandler",
    ),
    "Alpaca, one column": ({"instruction": Q, "input": "", "output": [GOOD, BAD]}, "AlpacaStylePairwiseHandler"),
    "ShareGPT": (
        {"conversations": sharegpt(Q), "chosen": sharegpt("", GOOD)[1], "rejected": sharegpt("", BAD)[1]},
        "SharegptStylePairwiseHandler",
    ),
    "ShareGPT, dialogues": ({"chosen": sharegpt(Q, GOOD), "rejected": sharegpt(Q, BAD)}, "DialoguePairwiseHandler"),
    "Orca": ({"system": "Be brief.", "question": Q, "chosen": GOOD, "rejected": BAD}, "AlpacaStylePairwiseHandler"),
    "StackExchange": ({"qid": 1, "question": Q, "response_j": GOOD, "response_k": BAD}, "AlpacaStylePairwiseHandler"),
    "hh": (
        {"chosen": f"\n\nHuman: {Q}\n\nAssistant: {GOOD}", "rejected": f"\n\nHuman: {Q}\n\nAssistant: {BAD}"},
        "DialoguePairwiseHandler",
    ),
    "SafeRLHF": (
        {"prompt": Q, "response_0": BAD, "response_1": GOOD, "better_response_id": 1, "safer_response_id": 0},
        "BetterResponsePairwiseHandler",
    ),
    "HelpSteer3": (
        {"context": openai(Q), "response1": GOOD, "response2": BAD, "overall_preference": -2},
        "SignedPreferencePairwiseHandler",
    ),
    "HelpSteer2": (
        {"prompt": Q, "response_1": GOOD, "response_2": BAD, "preference_strength": -2},
        "SignedPreferencePairwiseHandler",
    ),
}  # fmt: skip

RANKED: dict[str, dict[str, Any]] = {
    "UltraFeedback": {
        "instruction": Q,
        "completions": [{"response": BAD, "overall_score": 2.0}, {"response": GOOD, "overall_score": 8.5}],
    },
    "Nectar": {
        "prompt": f"\n\nHuman: {Q}\n\nAssistant: ",
        "answers": [{"answer": BAD, "rank": 2}, {"answer": GOOD, "rank": 1}],
    },
    "texts and scores": {"prompt": Q, "responses": [BAD, GOOD], "scores": [0.1, 0.9]},
    "texts and ranks": {"prompt": Q, "responses": [BAD, GOOD], "ranks": [2, 1]},
    "conversational prompt": {"prompt": openai(Q), "responses": [BAD, GOOD], "scores": [0.1, 0.9]},
}  # fmt: skip

PROMPTS: dict[str, tuple[dict[str, Any], str]] = {
    "text": ({"prompt": Q}, "PPOAlpacaStyleInstructionHandler"),
    "messages": ({"messages": openai(Q)}, "PPOSharegptStyleInstructionHandler"),
    "ShareGPT": ({"conversations": sharegpt(Q, GOOD)}, "PPOSharegptStyleInstructionHandler"),
    "Alpaca": ({"instruction": Q, "input": "", "output": GOOD}, "PPOAlpacaStyleInstructionHandler"),
    "mathematics": ({"problem": Q, "answer": "4"}, "R1AlpacaStyleInstructionHandler"),
    "lines of a text file": ({"text": Q}, "PPOAlpacaStyleInstructionHandler"),
    "of pairs": ({"prompt": Q, "chosen": GOOD, "rejected": BAD}, "PPOAlpacaStyleInstructionHandler"),
    "of dialogues": ({"chosen": openai(Q, GOOD), "rejected": openai(Q, BAD)}, "PPOSharegptStyleInstructionHandler"),
}


def recognised(row: dict[str, Any], kind: Kind = "pair", **given: Any) -> Recognised:
    return recognise([row, row], kind, "rows.jsonl", **given)


def scored(example: RankedExample) -> dict[str, float | None]:
    texts = [response[0].content for response in example.responses]
    return dict(zip(texts, example.scores, strict=True))


@pytest.mark.parametrize("name", PAIRS)
def test_published_pairs_are_read_as_what_they_are(name: str) -> None:
    row, handler = PAIRS[name]
    result = recognised(row)
    assert result.form.handler_name == handler
    assert isinstance(result.example, PairExample)
    assert result.example.prompt.turns[-1].content.endswith(Q)
    assert [response[-1].content for response in result.example.responses] == [GOOD, BAD]


def test_what_belongs_to_the_prompt_is_part_of_it() -> None:
    example = recognised(PAIRS["Alpaca"][0]).example
    assert example.prompt.turns[0].content == f"Add.\n{Q}"
    assert recognised(PAIRS["Orca"][0]).example.prompt.system == "Be brief."
    history = {**PAIRS["TRL, texts"][0], "history": [["Hello?", "Hello."]]}
    assert [turn.content for turn in recognised(history).example.prompt.turns] == ["Hello?", "Hello.", Q]


@pytest.mark.parametrize("name", RANKED)
def test_rated_responses_are_read_with_their_ratings(name: str) -> None:
    example = recognised(RANKED[name]).example
    assert isinstance(example, RankedExample)
    scores = scored(example)
    good, bad = scores[GOOD], scores[BAD]
    assert good is not None and bad is not None and good > bad


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_are_read_from_what_holds_them(name: str) -> None:
    row, handler = PROMPTS[name]
    result = recognised(row, "prompt")
    assert result.form.handler_name == handler
    assert isinstance(result.example, PromptExample) and result.example.prompt.turns[-1].content == Q
    if name == "mathematics":
        assert result.example.reference.content == "4"
        assert result.form.options == {"dataset_additional_keys": ("labels",)}


def test_rows_of_a_csv_file_are_texts_and_are_recognised(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text(f"prompt,response_0,response_1,better_response_id\n{Q},{BAD},{GOOD},1\n")
    example = recognise(read_file(file), "pair", "pairs.csv").example
    assert isinstance(example, PairExample) and example.chosen[0].content == GOOD


def test_several_readings_stop_with_words_that_choose_each() -> None:
    row = {"prompt": Q, "question": "And 3 + 3?", "chosen": GOOD, "rejected": BAD}
    with pytest.raises(UnrecognisedRowsError, match="can be read in 2 ways") as error:
        recognised(row)
    words = re.findall(r"handler_name=(\w+) 'map_keys=(.*)'", str(error.value))
    assert len(words) == 2
    prompts = [recognised(row, handler_name=name, map_keys=json.loads(keys)).example.prompt for name, keys in words]
    assert [prompt.turns[0].content for prompt in prompts] == [Q, "And 3 + 3?"]


def test_two_readings_with_the_same_text_are_one() -> None:
    result = recognised({"prompt": Q, "question": Q, "chosen": GOOD, "rejected": BAD})
    assert result.form.map_keys["prompt"] == "prompt"


def test_columns_that_the_user_names_decide() -> None:
    row = {"prompt": Q, "question": "And 3 + 3?", "chosen": GOOD, "rejected": BAD}
    result = recognised(row, map_keys={"prompt": "question"})
    assert result.example.prompt.turns[0].content == "And 3 + 3?"


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ({"prompt": Q}, "pair", "hold prompts and no preferences, which stage=online trains on"),
        ({"prompt": Q, "completion": GOOD, "label": True}, "pair", "as for KTO"),
        ({"a": 1, "b": 2}, "pair", r"form of the rows is not known.*handler_name=AlpacaStylePair.*a \(number\)"),
        ({"image": "a.png", "b": 2}, "pair", "image is not supported"),
        ({"prompt": Q, "chosen": GOOD, "rejected": ""}, "pair", "no preferences|is not known"),
        ({}, "pair", "no rows that can be read"),
        ({"prompt": openai(Q, GOOD), "chosen": assistant(GOOD), "rejected": assistant(BAD)}, "pair", "bad_turns"),
        ({"a": 1}, "prompt", "not known.*handler_name=PPO"),
    ],
)
def test_rows_without_a_form_say_what_they_hold(row: dict[str, Any], kind: Kind, message: str) -> None:
    with pytest.raises(UnrecognisedRowsError, match=message):
        recognised(row, kind)


def test_a_handler_of_the_other_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="reads prompts, but this stage needs pairs"):
        recognised({"prompt": Q}, handler_name="PPOAlpacaStyleInstructionHandler")
    with pytest.raises(ValueError, match=r"unknown.*did you mean"):
        recognised({"prompt": Q}, handler_name="AlpacaStylePairHandler")


def test_some_bad_rows_do_not_hide_the_form_and_are_counted() -> None:
    good = PAIRS["TRL, texts"][0]
    rows = [{"prompt": Q, "chosen": GOOD, "rejected": GOOD}, good, good, RowDropped("unreadable", "line 4"), good]
    result = recognise(rows, "pair", "rows.jsonl")
    assert (result.num_rows, result.num_read) == (4, 3)
    assert result.first_dropped.startswith("identical_responses")
    text = "\n".join(sample_lines("rows.jsonl", result))
    assert f"prompt    {Q}" in text and f"chosen    {GOOD}" in text and f"rejected  {BAD}" in text
    assert "1 of the first 4 rows" in text and "handler_name=AlpacaStylePairwiseHandler" in text
