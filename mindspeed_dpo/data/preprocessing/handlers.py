"""Handlers: convert raw rows of each supported data style to preference pairs or prompts.

A handler has a name, the columns it reads and a function from a row to an example; `HANDLERS` lists all of them.
Encoders convert the examples to tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mindspeed_dpo.config.name_suggestions import did_you_mean
from mindspeed_dpo.data.indexed.text_columns import json_text
from mindspeed_dpo.data.preprocessing.column_map import ColumnMapping, ColumnSpec
from mindspeed_dpo.data.tokenization.examples import PairExample, Prompt, PromptExample, Row, RowDropped, Turn
from mindspeed_dpo.data.tokenization.message_fields import check_weight, text_or_empty
from mindspeed_dpo.data.tokenization.message_parsing import (
    OPENAI_TAGS,
    SHAREGPT_TAGS,
    make_prompt,
    parse_response,
    read_transcript,
    read_turns,
    split_response,
)


@dataclass(frozen=True)
class Handler:
    """One style of raw data.

    Attributes:
        name: Value of `handler_name`.
        kind: Kind of the examples.
        columns: Columns that it reads.
        convert: Row and columns -> example; raises `RowDropped` for a row that cannot be used.
        with_additional_keys: Whether a prompt handler accepts `dataset_additional_keys`.
    """

    name: str
    kind: Literal["pair", "prompt"]
    columns: ColumnSpec
    convert: Callable[[Row, ColumnMapping], PairExample | PromptExample]
    with_additional_keys: bool = False

    def read(self, row: Row, columns: ColumnMapping) -> PairExample | PromptExample:
        """Convert a row to an example.

        Raises:
            RowDropped: The row cannot be used.
        """
        columns.check_unsupported(row)
        return self.convert(row, columns)

    @property
    def allows_additional_keys(self) -> bool:
        """Whether `dataset_additional_keys` is accepted; pair handlers always accept it."""
        return self.with_additional_keys or self.kind == "pair"


def _alpaca_prompt(row: Row, columns: ColumnMapping) -> Prompt:
    turns: list[Turn] = []
    history = columns.get(row, "history") or ()
    for exchange in history if isinstance(history, list | tuple) else (history,):
        if not isinstance(exchange, list | tuple) or len(exchange) != 2:
            raise RowDropped("bad_turns", "history should be a list of [question, response]")
        turns += [
            Turn("user", text_or_empty(exchange[0], "history")),
            Turn("assistant", text_or_empty(exchange[1], "history")),
        ]
    question = text_or_empty(columns.get(row, "prompt"), "the prompt")
    query = text_or_empty(columns.get(row, "query"), "the query")
    turns.append(Turn("user", f"{question}\n{query}" if query else question))
    return make_prompt(turns, system=text_or_empty(columns.get(row, "system"), "the system text"))


def _pair(prompt: Prompt, chosen: Turn, rejected: Turn) -> PairExample:
    for name, response in (("chosen", chosen), ("rejected", rejected)):
        if not response.content.strip():
            raise RowDropped("empty_response", f"{name} is empty")
    if chosen == rejected:
        raise RowDropped("identical_responses")
    return PairExample(prompt, chosen.content, rejected.content, chosen.thought, rejected.thought)


def _read_pair(row: Row, columns: ColumnMapping, prompt: Prompt) -> PairExample:
    """Read the keys chosen and rejected, which may name one shared column [chosen, rejected]."""
    chosen, rejected = columns.get(row, "chosen"), columns.get(row, "rejected")
    if columns.names["chosen"] == columns.names["rejected"]:
        if not isinstance(chosen, list | tuple) or len(chosen) < 2:
            raise RowDropped("not_text", "a shared column should be a list [chosen, rejected]")
        chosen, rejected = chosen[:2]
    tags = columns.tags or OPENAI_TAGS
    return _pair(prompt, _response(chosen, tags, "chosen", prompt), _response(rejected, tags, "rejected", prompt))


def _response(value: Any, tags: dict[str, str], what: str, prompt: Prompt) -> Turn:
    """Return a response; messages before it, as in a complete dialogue, must be the end of the prompt."""
    response = parse_response(value, tags, what)
    has_earlier = isinstance(value, list | tuple) and len(value) > 1 and not isinstance(value[0], str)
    earlier = read_turns(value[:-1], tags, what) if has_earlier else []
    system = [Turn("system", prompt.system)] if prompt.system else []
    if earlier and earlier != [*system, *prompt.turns][-len(earlier) :]:
        raise RowDropped("no_common_prompt", f"{what} has messages before its response that are not in the prompt")
    return response


def _read_alpaca_pair(row: Row, columns: ColumnMapping) -> PairExample:
    return _read_pair(row, columns, _alpaca_prompt(row, columns))


def _sharegpt_prompt(row: Row, columns: ColumnMapping, turns: Sequence[Turn]) -> Prompt:
    return make_prompt(turns, text_or_empty(columns.get(row, "system"), "the system text"))


def _read_sharegpt_pair(row: Row, columns: ColumnMapping) -> PairExample:
    turns = read_turns(columns.get(row, "messages"), columns.tags, "the dialogue")
    return _read_pair(row, columns, _sharegpt_prompt(row, columns, turns))


def _read_better_response(row: Row, columns: ColumnMapping) -> PairExample:
    """Read two responses and the index of the better one."""
    prompt = _alpaca_prompt(row, columns)
    responses = [_response(value, OPENAI_TAGS, "a response", prompt) for value in columns.all(row, "responses")]
    better_index = _better_index(columns.get(row, "better"))
    return _pair(prompt, responses[better_index], responses[1 - better_index])


_NO_PREFERENCE = ("", "null", "none", "nan", "-1", "-1.0")
_INDEX_BY_TEXT = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}


def _better_index(value: Any) -> int:
    """Return 0 or 1; a column with nulls becomes float in many tools, and in csv files every value is text."""
    text = str(value).strip().lower()
    if text in _NO_PREFERENCE:
        raise RowDropped("no_preference")
    if text not in _INDEX_BY_TEXT:
        raise RowDropped("not_text", f"the better response should be 0 or 1, got {value!r:.80}")
    return _INDEX_BY_TEXT[text]


def _read_dialogue_pair(row: Row, columns: ColumnMapping) -> PairExample:
    """Read two dialogues with a common start, as message lists or as `Human:` / `Assistant:` text."""
    parts = []
    for key in ("chosen", "rejected"):
        value = columns.get(row, key)
        if value is None or value in ("", []):
            raise RowDropped("empty_response", f"{key} is empty")
        turns = read_transcript(value) if isinstance(value, str) else read_turns(value, columns.tags, key)
        parts.append(split_response(turns, key))
        check_weight(value[-1])
    (chosen_prompt, chosen), (rejected_prompt, rejected) = parts
    if chosen_prompt != rejected_prompt:
        raise RowDropped("no_common_prompt", "chosen and rejected differ before their last response")
    return _pair(
        make_prompt(chosen_prompt, text_or_empty(columns.get(row, "system"), "the system text")), chosen, rejected
    )


def _read_alpaca_prompt(row: Row, columns: ColumnMapping) -> PromptExample:
    response = columns.get(row, "response")
    if isinstance(response, list | tuple):
        response = response[0] if response else ""
    return PromptExample(_alpaca_prompt(row, columns), Turn("assistant", _as_text(response)))


def _read_sharegpt_prompt(row: Row, columns: ColumnMapping) -> PromptExample:
    """Read a dialogue; a final response of the assistant becomes the reference and not part of the prompt."""
    turns = read_turns(columns.get(row, "messages"), columns.tags, "the dialogue")
    if turns[-1].role != "assistant":
        return PromptExample(_sharegpt_prompt(row, columns, turns))
    prompt_turns, response = split_response(turns, "the dialogue")
    return PromptExample(_sharegpt_prompt(row, columns, prompt_turns), response)


def _as_text(value: Any) -> str:
    try:
        return "" if value is None else value if isinstance(value, str) else json_text(value)
    except TypeError as error:
        raise RowDropped("not_text", f"the response: {error}") from error


_ALPACA = {"prompt": "instruction", "query": "input", "history": None, "system": None}
_SHAREGPT = {"messages": "conversations", "system": None}
_RESPONSES = {"chosen": "chosen", "rejected": "rejected"}

_ALPACA_PROMPT = ColumnSpec({**_ALPACA, "response": "output"}, ("prompt",))
_SHAREGPT_PROMPT = ColumnSpec(_SHAREGPT, ("messages",), ("kto_tag",), SHAREGPT_TAGS)

HANDLERS: dict[str, Handler] = {
    handler.name: handler
    for handler in (
        Handler(
            "AlpacaStylePairwiseHandler",
            "pair",
            ColumnSpec({**_ALPACA, **_RESPONSES}, ("prompt", "chosen", "rejected"), ("response",)),
            _read_alpaca_pair,
        ),
        Handler(
            "SharegptStylePairwiseHandler",
            "pair",
            ColumnSpec({**_SHAREGPT, **_RESPONSES}, ("messages", "chosen", "rejected"), ("kto_tag",), SHAREGPT_TAGS),
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
            ColumnSpec({**_RESPONSES, "system": None}, ("chosen", "rejected"), (), OPENAI_TAGS),
            _read_dialogue_pair,
        ),
        Handler("PPOAlpacaStyleInstructionHandler", "prompt", _ALPACA_PROMPT, _read_alpaca_prompt),
        Handler("PPOSharegptStyleInstructionHandler", "prompt", _SHAREGPT_PROMPT, _read_sharegpt_prompt),
        Handler(
            "R1AlpacaStyleInstructionHandler", "prompt", _ALPACA_PROMPT, _read_alpaca_prompt, with_additional_keys=True
        ),
        Handler(
            "R1SharegptStyleInstructionHandler",
            "prompt",
            _SHAREGPT_PROMPT,
            _read_sharegpt_prompt,
            with_additional_keys=True,
        ),
    )
}

_SFT = "it prepares data for supervised fine-tuning, which this project does not do"
_PRETRAIN = "it prepares data for pre-training, which this project does not do"
UNSUPPORTED_HANDLERS: Mapping[str, str] = {
    "AlpacaStyleInstructionHandler": _SFT,
    "SharegptStyleInstructionHandler": _SFT,
    "HunyuanInstructionHandler": _SFT,
    "GeneralInstructionHandler": _SFT,
    "BelleMultiTurnInstructionHandler": _SFT,
    "MOSSMultiTurnHandler": _SFT,
    "MOSSInstructionHandler": _SFT,
    "LeetcodePythonInstructionHandler": _SFT,
    "LlamaFactoryInstructionHandler": f"{_SFT}; pass the data file as input and use a Sharegpt or Alpaca handler",
    "Math17kAlpacaStyleInstructionHandler": "use R1AlpacaStyleInstructionHandler or R1SharegptStyleInstructionHandler",
    "AlpacaStyleProcessRewardHandler": "it prepares data for process reward models",
    "GeneralPretrainHandler": _PRETRAIN,
    "AlpacaPretrainHandler": _PRETRAIN,
    "StackOverflowPythonPretrainHandler": _PRETRAIN,
}
"""Handlers of MindSpeed-LLM that are not supported -> the reason, or what to use instead."""


def handler_problem(name: str) -> str | None:
    """Return the reason for which `name` is not a valid handler_name, or None if it is valid."""
    if name in HANDLERS:
        return None
    if name in UNSUPPORTED_HANDLERS:
        return f"handler_name {name} is not supported: {UNSUPPORTED_HANDLERS[name]}"
    if not name:
        return f"handler_name is missing; choose one of {', '.join(HANDLERS)}"
    return f"handler_name {name!r} is unknown; choose one of {', '.join(HANDLERS)}{did_you_mean(name, HANDLERS)}"
