"""The forms of rows with preferences: chosen and rejected, two dialogues, an index or a sign, rated responses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mindspeed_dpo.data.recognition.row_columns import MESSAGES, OBJECTS, TEXT, TEXTS, RowColumns
from mindspeed_dpo.data.recognition.row_forms import PromptReading, RowForm, prompt_columns

_CHOSEN_REJECTED = (
    ("chosen", "rejected"),
    ("chosen_response", "rejected_response"),
    ("response_chosen", "response_rejected"),
    ("response_j", "response_k"),
    ("preferred", "dispreferred"),
)
_LISTS = ("completions", "responses", "answers", "candidates", "outputs", "generations")
_RATINGS = {"scores": ("scores", "ratings", "rewards"), "ranks": ("ranks", "ranking")}
_TAGS = {
    "response_tag": ("response", "answer", "completion", "output", "text", "content"),
    "score_tag": ("score", "overall_score", "rating", "reward"),
    "rank_tag": ("rank",),
}
_SIGNED = (
    (("response1", "response2"), "overall_preference"),
    (("response_1", "response_2"), "preference_strength"),
)
_INDEXED = (("response_0", "response_1"), "better_response_id")


def pair_forms(columns: RowColumns) -> list[RowForm]:
    """Return every form with preferences that the columns may have."""
    prompts = prompt_columns(columns)
    return [
        *_two_responses(columns, prompts),
        *_shared_column(columns, prompts),
        *_indexed(columns, prompts),
        *_signed(columns, prompts),
        *_ranked(columns, prompts),
    ]


def _two_responses(columns: RowColumns, prompts: list[PromptReading]) -> Iterator[RowForm]:
    for chosen, rejected in _CHOSEN_REJECTED:
        if not all(columns.has(name, TEXT, MESSAGES, TEXTS) for name in (chosen, rejected)):
            continue
        responses = {"chosen": chosen, "rejected": rejected}
        if all(map(columns.are_dialogues, (chosen, rejected))):
            tags = columns.tags(chosen) if columns.has(chosen, MESSAGES) else {}
            keys: dict[str, Any] = responses
            if columns.has(chosen, MESSAGES) and not tags:
                keys = {**responses, "tags": {"role_tag": "from", "content_tag": "value", "user_tag": "human",
                                              "assistant_tag": "gpt"}}  # fmt: skip
            yield RowForm(
                f"two dialogues {chosen} and {rejected}, whose common start is the prompt",
                "DialoguePairwiseHandler",
                keys,
            )
            continue
        for prompt in prompts:
            if not {chosen, rejected} & set(_columns(prompt.map_keys)):
                yield _of_prompt(prompt, responses, f"{prompt.description} and the responses {chosen} and {rejected}")


def _of_prompt(prompt: PromptReading, responses: Mapping[str, str], description: str) -> RowForm:
    handler = "SharegptStylePairwiseHandler" if prompt.key == "messages" else "AlpacaStylePairwiseHandler"
    return RowForm(description, handler, {**prompt.map_keys, **responses})


def _shared_column(columns: RowColumns, prompts: list[PromptReading]) -> Iterator[RowForm]:
    """One column with a list [chosen, rejected], as LLaMA-Factory's older Alpaca rows have it."""
    is_pair = columns.has("output", TEXTS) and all(len(value) == 2 for value in columns.values("output"))
    if not is_pair or any(columns.has(name, TEXTS, OBJECTS) for names in _RATINGS.values() for name in names):
        return
    for prompt in prompts:
        keys = {"chosen": "output", "rejected": "output"}
        yield _of_prompt(prompt, keys, f"{prompt.description} and the list output of the chosen and rejected response")


def _indexed(columns: RowColumns, prompts: list[PromptReading]) -> Iterator[RowForm]:
    responses, better = _INDEXED
    if columns.kind(better) and all(columns.has(name, TEXT, MESSAGES) for name in responses):
        for prompt in prompts:
            if prompt.key == "prompt":
                yield RowForm(
                    f"{prompt.description}, two responses and the index {better} of the better one",
                    "BetterResponsePairwiseHandler",
                    {**prompt.map_keys, "responses": list(responses), "better": better},
                )


def _signed(columns: RowColumns, prompts: list[PromptReading]) -> Iterator[RowForm]:
    for responses, preference in _SIGNED:
        if columns.kind(preference) and all(columns.has(name, TEXT, MESSAGES) for name in responses):
            for prompt in prompts:
                yield RowForm(
                    f"{prompt.description}, two responses and the signed {preference}",
                    "SignedPreferencePairwiseHandler",
                    {**_any_prompt(prompt), "responses": list(responses), "preference": preference},
                )


def _ranked(columns: RowColumns, prompts: list[PromptReading]) -> Iterator[RowForm]:
    for name in _LISTS:
        rating = _rating(columns, name)
        for prompt in prompts if rating is not None else ():
            yield RowForm(
                f"{prompt.description} and the rated responses {name}",
                "RankedResponsesPairwiseHandler",
                {**_any_prompt(prompt), "responses": name, **(rating or {})},
            )


def _rating(columns: RowColumns, name: str) -> dict[str, Any] | None:
    """Return the keys of the ratings of a list of responses; None if it has none."""
    for key, names in _RATINGS.items():
        rated = columns.first(names, TEXTS, OBJECTS, "other")
        if columns.has(name, TEXTS, MESSAGES, OBJECTS) and rated:
            return {key: rated}
    if not columns.has(name, OBJECTS, MESSAGES):
        return None
    present = {key for value in columns.values(name) for item in value for key in item}
    tags = {tag: next((key for key in names if key in present), "") for tag, names in _TAGS.items()}
    is_rated = tags["response_tag"] and (tags["score_tag"] or tags["rank_tag"])
    return {"tags": {tag: key for tag, key in tags.items() if key}} if is_rated else None


def _any_prompt(prompt: PromptReading) -> dict[str, Any]:
    """The keys of a handler whose `prompt` may be a text or messages of OpenAI's form."""
    if prompt.key == "prompt":
        return dict(prompt.map_keys)
    return {"prompt": prompt.map_keys["messages"], **{k: v for k, v in prompt.map_keys.items() if k == "system"}}


def _columns(map_keys: Mapping[str, Any]) -> list[str]:
    return [value for value in map_keys.values() if isinstance(value, str)]
