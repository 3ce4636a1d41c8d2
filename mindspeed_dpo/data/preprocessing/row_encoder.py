"""Converts one raw row to the columns of one stored row: handler, encoder and the checks of every row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.data.indexed.column_group import IGNORE_INDEX, LABELS, MESSAGES, PAIR_COLUMNS, PROMPT_COLUMNS
from mindspeed_dpo.data.indexed.text_columns import json_text
from mindspeed_dpo.data.preprocessing.column_map import resolve_columns
from mindspeed_dpo.data.preprocessing.handler_table import HANDLERS
from mindspeed_dpo.data.preprocessing.settings import PreprocessSettings
from mindspeed_dpo.data.tokenization.dialogue_parsing import write_messages
from mindspeed_dpo.data.tokenization.encoders import Encoder, make_encoder
from mindspeed_dpo.data.tokenization.examples import PairExample, PairTokens, PromptExample, Row, RowDropped
from mindspeed_dpo.data.tokenization.tokenizer import load_tokenizer, text_ids


@dataclass(frozen=True)
class EncodedRow:
    """The columns of one stored row, as a worker process returns them.

    Example:
        EncodedRow(
            columns={
                "chosen_input_ids": np.array([5, 6, 7], np.int32),
                "chosen_labels": np.array([-100, -100, 7], np.int32),
                "rejected_input_ids": np.array([5, 6, 8], np.int32),
                "rejected_labels": np.array([-100, -100, 8], np.int32),
            },
            prompt_tail=0,
            texts={"score": "0.5"},
        )

    Attributes:
        columns: Token column -> [length] int32.
        prompt_tail: Number of tokens at the end of the prompt that merge with a response.
        texts: Text column -> JSON text.
    """

    columns: dict[str, NDArray[np.int32]]
    prompt_tail: int = 0
    texts: dict[str, str] = field(default_factory=dict)


class RowEncoder:
    """Converts raw rows with a handler and an encoder.

    Attributes:
        settings: Settings of the run.
        read_columns: Columns that are used of a row.
        unread_columns: Columns of the data that are not.
        encoder: Converts texts to tokens.
    """

    def __init__(self, settings: PreprocessSettings, available: Sequence[str], source: str) -> None:
        """Load the tokenizer and the template, and resolve the columns.

        Args:
            settings: Settings without problems.
            available: The columns of the data.
            source: Name of the data, for messages.

        Raises:
            ValueError: A column is missing from the data, or the tokenizer lacks a token of the template.
            FileNotFoundError: The tokenizer or a template file does not exist.
        """
        self.settings = settings
        self._handler = HANDLERS[settings.handler_name]
        self._columns = resolve_columns(self._handler.columns, settings.map_keys, available, source)
        self.read_columns = frozenset({*self._columns.columns, *settings.dataset_additional_keys})
        self.unread_columns = tuple(column for column in available if column not in self.read_columns)
        missing = [key for key in settings.dataset_additional_keys if key != LABELS and key not in available]
        if missing:
            present = ", ".join(available)
            raise ValueError(
                f"{source}: dataset_additional_keys: no column {missing[0]!r}; columns in the data: {present}"
            )
        tokenizer = load_tokenizer(
            settings.tokenizer_name_or_path or "",
            use_fast=not settings.tokenizer_not_use_fast,
            trust_remote_code=settings.trust_remote_code,
        )
        self.encoder: Encoder = make_encoder(
            tokenizer, settings.prompt_type or "", settings.prompt_type_path, settings.enable_thinking
        )

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the token columns."""
        extra = self.settings.dataset_additional_keys
        return PAIR_COLUMNS if self._handler.kind == "pair" else (*PROMPT_COLUMNS, *extra)

    @property
    def text_column_names(self) -> tuple[str, ...]:
        """Names of the text columns, which are stored as JSON."""
        own = () if self._handler.kind == "pair" else (MESSAGES,)
        return (*own, *self.settings.dataset_additional_keys)

    @property
    def note(self) -> str | None:
        """Warning about the prompt type, or None; warnings concern responses and so only pairs."""
        return self.encoder.note if self._handler.kind == "pair" else None

    def encode(self, row: Row) -> EncodedRow:
        """Convert one raw row.

        Raises:
            RowDropped: The row cannot be used.
        """
        example = self._handler.read(row, self._columns)
        if isinstance(example, PairExample):
            return self._pair(self.encoder.pair(example), row)
        return self._prompt(example, row)

    def _pair(self, tokens: PairTokens, row: Row) -> EncodedRow:
        if not tokens.prompt:
            raise RowDropped("empty_prompt", "the prompt has no tokens")
        if tokens.is_prompt_changed:
            raise RowDropped("changed_by_response", "part of the prompt would be trained as a response")
        if not tokens.chosen or not tokens.rejected:
            raise RowDropped("empty_response", "a response has no tokens")
        if tokens.chosen == tokens.rejected:
            raise RowDropped("identical_responses", "both responses have the same tokens")
        self._check_length(len(tokens.prompt) + max(len(tokens.chosen), len(tokens.rejected)))
        ignored = [IGNORE_INDEX] * len(tokens.prompt)
        rows = (
            tokens.prompt + tokens.chosen,
            ignored + tokens.chosen,
            tokens.prompt + tokens.rejected,
            ignored + tokens.rejected,
        )
        columns = {name: _array(ids) for name, ids in zip(PAIR_COLUMNS, rows, strict=True)}
        texts = {key: _json_text(key, row.get(key)) for key in self.settings.dataset_additional_keys}
        return EncodedRow(columns, tokens.prompt_tail, texts)

    def _prompt(self, example: PromptExample, row: Row) -> EncodedRow:
        ids = self.encoder.prompt(example.prompt)
        if not ids:
            raise RowDropped("empty_prompt", "the prompt has no tokens")
        self._check_length(len(ids))
        columns = {"input_ids": _array(ids), "attention_mask": np.ones(len(ids), np.int32)}
        texts = {MESSAGES: json_text(write_messages(example.prompt))}
        for key in self.settings.dataset_additional_keys:
            value = self.encoder.reference(example.reference) if key == LABELS else row.get(key)
            columns[key], texts[key] = self._additional(key, value)
        return EncodedRow(columns, texts=texts)

    def _additional(self, key: str, value: Any) -> tuple[NDArray[np.int32], str]:
        """Return an additional value as tokens [length] int32, which MindSpeed reads, and as JSON text."""
        text = _json_text(key, value)
        plain = "" if value is None else value if isinstance(value, str) else text
        ids = _array(text_ids(self.encoder.tokenizer, plain))
        if key == LABELS and not len(ids):
            raise RowDropped("empty_response", f"the additional key {key} has no tokens")
        return ids, text

    def _check_length(self, length: int) -> None:
        seq_length = self.settings.seq_length
        if seq_length is not None and length >= seq_length:
            raise RowDropped("too_long", f"{length} tokens, seq_length is {seq_length}")


def _json_text(key: str, value: Any) -> str:
    try:
        return json_text(value)
    except TypeError as error:
        raise RowDropped("not_text", f"the additional key {key}: {error}") from error


def _array(ids: Sequence[int]) -> NDArray[np.int32]:
    return np.asarray(ids, dtype=np.int32)
