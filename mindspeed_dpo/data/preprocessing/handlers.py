"""The handlers: how a raw row of each known data style is read as a preference pair or as a prompt.

A handler is a name, the columns it reads and a function from row to example; all of them stand in `HANDLERS`.
Turning the example into tokens is left to the encoders.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mindspeed_dpo.config.names import did_you_mean
from mindspeed_dpo.data.preprocessing.column_map import Columns, ColumnSpec
from mindspeed_dpo.data.tokenization.conversation import (
    OPENAI_TAGS,
    SHAREGPT_TAGS,
    make_prompt,
    read_transcript,
    read_turns,
    split_answer,
    text_of,
    text_of_answer,
)
from mindspeed_dpo.data.tokenization.examples import PairExample, Prompt, PromptExample, Row, RowDropped, Turn


@dataclass(frozen=True)
class Handler:
    """One style of raw data.

    Attributes:
        name: As written in `handler_name`.
        kind: Whether it yields pairs or prompts.
        columns: What it reads.
        read: Row and columns -> example; raises `RowDropped` for a row that cannot be used.
        extras: Whether a handler of prompts takes `dataset_additional_keys`.
    """

    name: str
    kind: Literal["pair", "prompt"]
    columns: ColumnSpec
    read: Callable[[Row, Columns], PairExample | PromptExample]
    extras: bool = False

    @property
    def keeps_extras(self) -> bool:
        """Whether `dataset_additional_keys` may be given: with pairs always."""
        return self.extras or self.kind == "pair"


def _alpaca_prompt(row: Row, columns: Columns) -> Prompt:
    turns: list[Turn] = []
    for exchange in columns.get(row, "history") or ():
        if not isinstance(exchange, list | tuple) or len(exchange) != 2:
            raise RowDropped("bad_turns", "history should be a list of [question, answer]")
        turns += [Turn("user", text_of(exchange[0], "history")), Turn("assistant", text_of(exchange[1], "history"))]
    question = text_of(columns.get(row, "prompt"), "the prompt")
    query = text_of(columns.get(row, "query"), "the query")
    turns.append(Turn("user", f"{question}\n{query}" if query else question))
    return make_prompt(turns, system=text_of(columns.get(row, "system"), "the system text"))


def _pair(prompt: Prompt, chosen: str, rejected: str) -> PairExample:
    if not chosen.strip() or not rejected.strip():
        raise RowDropped("empty_response", "chosen is empty" if not chosen.strip() else "rejected is empty")
    if chosen == rejected:
        raise RowDropped("identical_responses")
    return PairExample(prompt, chosen, rejected)


def _two_answers(row: Row, columns: Columns) -> tuple[str, str]:
    """The answers of the keys chosen and rejected, which may name one column [chosen, rejected]."""
    chosen, rejected = columns.get(row, "chosen"), columns.get(row, "rejected")
    if columns.names["chosen"] == columns.names["rejected"]:
        if not isinstance(chosen, list | tuple) or len(chosen) < 2:
            raise RowDropped("not_text", "a shared column should be a list [chosen, rejected]")
        chosen, rejected = chosen[:2]
    tags = columns.tags or OPENAI_TAGS
    return text_of_answer(chosen, tags, "chosen"), text_of_answer(rejected, tags, "rejected")


def _read_alpaca_pair(row: Row, columns: Columns) -> PairExample:
    return _pair(_alpaca_prompt(row, columns), *_two_answers(row, columns))


def _sharegpt_prompt(row: Row, columns: Columns, turns: Sequence[Turn]) -> Prompt:
    system, tools = (text_of(columns.get(row, key), f"the {key} text") for key in ("system", "tools"))
    return make_prompt(turns, system, tools)


def _read_sharegpt_pair(row: Row, columns: Columns) -> PairExample:
    turns = read_turns(columns.get(row, "messages"), columns.tags, "the dialogue")
    return _pair(_sharegpt_prompt(row, columns, turns), *_two_answers(row, columns))


def _read_better_response(row: Row, columns: Columns) -> PairExample:
    """Two answers and the number of the better one."""
    answers = [text_of_answer(value, OPENAI_TAGS, "a response") for value in columns.all(row, "responses")]
    better = columns.get(row, "better")
    if better is None or better == -1:
        raise RowDropped("no_preference")
    if str(better) not in ("0", "1"):
        raise RowDropped("not_text", f"the better response should be 0 or 1, got {better!r}")
    first = int(better)
    return _pair(_alpaca_prompt(row, columns), answers[first], answers[1 - first])


def _read_dialogue_pair(row: Row, columns: Columns) -> PairExample:
    """Two whole dialogues with a common start, as message lists or as `Human:` / `Assistant:` text."""
    parts = []
    for key in ("chosen", "rejected"):
        value = columns.get(row, key)
        if value is None or value in ("", []):
            raise RowDropped("empty_response", f"{key} is empty")
        turns = read_transcript(value) if isinstance(value, str) else read_turns(value, columns.tags, key)
        parts.append(split_answer(turns, key))
    (chosen_start, chosen), (rejected_start, rejected) = parts
    if chosen_start != rejected_start:
        raise RowDropped("no_common_prompt", "chosen and rejected differ before their last answer")
    return _pair(make_prompt(chosen_start, text_of(columns.get(row, "system"), "the system text")), chosen, rejected)


def _read_alpaca_prompt(row: Row, columns: Columns) -> PromptExample:
    answer = columns.get(row, "response")
    if isinstance(answer, list | tuple):
        answer = answer[0] if answer else ""
    return PromptExample(_alpaca_prompt(row, columns), {"labels": _as_text(answer)})


def _read_sharegpt_prompt(row: Row, columns: Columns) -> PromptExample:
    """A dialogue; where it ends with an answer, that is kept apart from the prompt."""
    turns = read_turns(columns.get(row, "messages"), columns.tags, "the dialogue")
    answer = ""
    if turns[-1].role == "assistant":
        before, answer = split_answer(turns, "the dialogue")
        turns = list(before)
    return PromptExample(_sharegpt_prompt(row, columns, turns), {"labels": answer})


def _as_text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_ALPACA = {"prompt": "instruction", "query": "input", "history": None, "system": None}
_SHAREGPT = {"messages": "conversations", "system": None, "tools": None}
_ANSWERS = {"chosen": "chosen", "rejected": "rejected"}

_ALPACA_PROMPT = ColumnSpec({**_ALPACA, "response": "output"}, ("prompt",))
_SHAREGPT_PROMPT = ColumnSpec(_SHAREGPT, ("messages",), ("kto_tag",), SHAREGPT_TAGS)

HANDLERS: dict[str, Handler] = {
    handler.name: handler
    for handler in (
        Handler(
            "AlpacaStylePairwiseHandler",
            "pair",
            ColumnSpec({**_ALPACA, **_ANSWERS}, ("prompt", "chosen", "rejected"), ("response",)),
            _read_alpaca_pair,
        ),
        Handler(
            "SharegptStylePairwiseHandler",
            "pair",
            ColumnSpec({**_SHAREGPT, **_ANSWERS}, ("messages", "chosen", "rejected"), ("kto_tag",), SHAREGPT_TAGS),
            _read_sharegpt_pair,
        ),
        Handler(
            "BetterResponsePairwiseHandler",
            "pair",
            ColumnSpec(
                {
                    **_ALPACA,
                    "prompt": "prompt",
                    "responses": ("response_0", "response_1"),
                    "better": "better_response_id",
                },
                ("prompt", "responses", "better"),
            ),
            _read_better_response,
        ),
        Handler(
            "DialoguePairwiseHandler",
            "pair",
            ColumnSpec({**_ANSWERS, "system": None}, ("chosen", "rejected"), (), OPENAI_TAGS),
            _read_dialogue_pair,
        ),
        Handler("PPOAlpacaStyleInstructionHandler", "prompt", _ALPACA_PROMPT, _read_alpaca_prompt),
        Handler("PPOSharegptStyleInstructionHandler", "prompt", _SHAREGPT_PROMPT, _read_sharegpt_prompt),
        Handler("R1AlpacaStyleInstructionHandler", "prompt", _ALPACA_PROMPT, _read_alpaca_prompt, extras=True),
        Handler("R1SharegptStyleInstructionHandler", "prompt", _SHAREGPT_PROMPT, _read_sharegpt_prompt, extras=True),
    )
}

_SFT = "it makes data for supervised fine-tuning; this project trains on preferences"
_PRETRAIN = "it makes pre-training data; this project trains on preferences"
REJECTED: Mapping[str, str] = {
    "AlpacaStyleInstructionHandler": _SFT,
    "SharegptStyleInstructionHandler": _SFT,
    "HunyuanInstructionHandler": _SFT,
    "GeneralInstructionHandler": _SFT,
    "BelleMultiTurnInstructionHandler": _SFT,
    "MOSSMultiTurnHandler": _SFT,
    "MOSSInstructionHandler": _SFT,
    "LeetcodePythonInstructionHandler": _SFT,
    "LlamaFactoryInstructionHandler": f"{_SFT}; name the file itself as input and use a Sharegpt or Alpaca handler",
    "Math17kAlpacaStyleInstructionHandler": "use R1AlpacaStyleInstructionHandler or R1SharegptStyleInstructionHandler",
    "AlpacaStyleProcessRewardHandler": "it makes data for process reward models",
    "GeneralPretrainHandler": _PRETRAIN,
    "AlpacaPretrainHandler": _PRETRAIN,
    "StackOverflowPythonPretrainHandler": _PRETRAIN,
}
"""Handlers of MindSpeed-LLM that are not here, and why or what to use instead."""


def handler_problem(name: str, known: Collection[str] = tuple(HANDLERS)) -> str | None:
    """Why `name` cannot be used as handler_name, or None."""
    if name in known:
        return None
    if name in REJECTED:
        return f"handler_name {name} is not supported: {REJECTED[name]}"
    if not name:
        return f"handler_name is missing; choose one of {', '.join(known)}"
    return f"handler_name {name!r} is unknown; choose one of {', '.join(known)}{did_you_mean(name, known)}"
