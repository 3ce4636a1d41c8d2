"""The table of handlers, which convert raw rows of each supported data style to preference pairs or prompts.

A handler has a name, the columns it reads and a function from a row to an example (`pair_handlers`, `prompt_handlers`).
Encoders convert the examples to tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mindspeed_dpo.config.name_suggestions import did_you_mean
from mindspeed_dpo.data.preprocessing.column_map import ColumnSpec
from mindspeed_dpo.data.preprocessing.column_mapping import KTO_TAG, ColumnMapping
from mindspeed_dpo.data.preprocessing.pair_handlers import (
    read_alpaca_pair,
    read_better_response,
    read_dialogue_pair,
    read_sharegpt_pair,
)
from mindspeed_dpo.data.preprocessing.prompt_handlers import read_alpaca_prompt, read_sharegpt_prompt
from mindspeed_dpo.data.preprocessing.ranked_rows import RANKED_TAGS, read_ranked_responses, read_signed_preference
from mindspeed_dpo.data.tokenization.dialogue_parsing import (
    OPENAI_TAGS,
    SHAREGPT_TAGS,
)
from mindspeed_dpo.data.tokenization.examples import PairExample, PromptExample, RankedExample, Row

Example = PairExample | RankedExample | PromptExample
MARGIN = "margin"
SCORE_COLUMNS = ("score_chosen", "score_rejected", MARGIN)
"""Text columns of pairs with the scores of the two responses and their difference."""


@dataclass(frozen=True)
class Handler:
    """One style of raw data.

    Attributes:
        name: Value of `handler_name`.
        kind: Kind of the examples.
        columns: Columns that it reads.
        convert: Row and columns -> example; raises `RowDropped` for a row that cannot be used.
        with_additional_keys: Whether a prompt handler accepts `dataset_additional_keys`.
        ratings: Text columns with the rating of a pair that it always writes.
    """

    name: str
    kind: Literal["pair", "prompt"]
    columns: ColumnSpec
    convert: Callable[[Row, ColumnMapping], Example]
    with_additional_keys: bool = False
    ratings: tuple[str, ...] = ()

    def read(self, row: Row, columns: ColumnMapping) -> Example:
        """Convert a row to an example.

        Raises:
            RowDropped: The row cannot be used.
        """
        columns.check_media(row)
        if KTO_TAG in columns.names:
            columns.check_paired(row)
        return self.convert(row, columns)

    def rating_columns(self, map_keys: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the text columns with the rating of a pair that are written with these `map_keys`."""
        return SCORE_COLUMNS if map_keys.get(SCORE_COLUMNS[0]) else self.ratings

    @property
    def allows_additional_keys(self) -> bool:
        """Whether `dataset_additional_keys` is accepted; pair handlers always accept it."""
        return self.with_additional_keys or self.kind == "pair"


_ALPACA = {"prompt": "instruction", "query": "input", "history": None, "system": None}
_ANY_PROMPT = {**_ALPACA, "prompt": "prompt", "query": None}
_SHAREGPT = {"messages": "conversations", "system": None}
_RESPONSES = {"chosen": "chosen", "rejected": "rejected"}
_RATING = {"score_chosen": None, "score_rejected": None, KTO_TAG: "label"}

_ALPACA_PROMPT = ColumnSpec({**_ALPACA, "response": "output"}, ("prompt",))
_SHAREGPT_PROMPT = ColumnSpec(_SHAREGPT, ("messages",), ("kto_tag",), SHAREGPT_TAGS)

HANDLERS: dict[str, Handler] = {
    handler.name: handler
    for handler in (
        Handler(
            "AlpacaStylePairwiseHandler",
            "pair",
            ColumnSpec({**_ALPACA, **_RESPONSES, **_RATING}, ("prompt", "chosen", "rejected"), ("response",)),
            read_alpaca_pair,
        ),
        Handler(
            "SharegptStylePairwiseHandler",
            "pair",
            ColumnSpec({**_SHAREGPT, **_RESPONSES, **_RATING}, ("messages", "chosen", "rejected"), (), SHAREGPT_TAGS),
            read_sharegpt_pair,
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
            read_better_response,
        ),
        Handler(
            "DialoguePairwiseHandler",
            "pair",
            ColumnSpec({**_RESPONSES, **_RATING, "system": None}, ("chosen", "rejected"), (), OPENAI_TAGS),
            read_dialogue_pair,
        ),
        Handler(
            "RankedResponsesPairwiseHandler",
            "pair",
            ColumnSpec(
                {**_ANY_PROMPT, "responses": "completions", "scores": None, "ranks": None},
                ("prompt", "responses"),
                (),
                RANKED_TAGS,
                ("responses", "scores", "ranks"),
            ),
            read_ranked_responses,
            ratings=SCORE_COLUMNS,
        ),
        Handler(
            "SignedPreferencePairwiseHandler",
            "pair",
            ColumnSpec(
                {**_ANY_PROMPT, "responses": ("response_1", "response_2"), "preference": "preference_strength"},
                ("prompt", "responses", "preference"),
                (),
                OPENAI_TAGS,
            ),
            read_signed_preference,
            ratings=(MARGIN,),
        ),
        Handler("PPOAlpacaStyleInstructionHandler", "prompt", _ALPACA_PROMPT, read_alpaca_prompt),
        Handler("PPOSharegptStyleInstructionHandler", "prompt", _SHAREGPT_PROMPT, read_sharegpt_prompt),
        Handler(
            "R1AlpacaStyleInstructionHandler", "prompt", _ALPACA_PROMPT, read_alpaca_prompt, with_additional_keys=True
        ),
        Handler(
            "R1SharegptStyleInstructionHandler",
            "prompt",
            _SHAREGPT_PROMPT,
            read_sharegpt_prompt,
            with_additional_keys=True,
        ),
    )
}

MATH_17K_KEYS = {
    "messages": "prompt",
    "tags": {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    },
}
"""The `map_keys` of R1SharegptStyleInstructionHandler for the rows of MindSpeed-RL's math_17k."""
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
    "Math17kAlpacaStyleInstructionHandler": "its prompts are lists of messages; use R1SharegptStyleInstructionHandler "
    f"with map_keys={json.dumps(MATH_17K_KEYS)} and dataset_additional_keys=reward_model, "
    "whose ground_truth a reward function reads",
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
