"""Converts one raw row to the columns of one stored row: handler, encoder and the checks of every row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.data.indexed.column_group import (
    IGNORE_INDEX,
    LABELS,
    MESSAGES,
    PAIR_COLUMNS,
    PROMPT_COLUMNS,
    RANKING_COLUMNS,
)
from mindspeed_dpo.data.indexed.text_columns import json_text
from mindspeed_dpo.data.preprocessing.column_map import resolve_columns
from mindspeed_dpo.data.preprocessing.handler_table import HANDLERS, SCORE_COLUMNS
from mindspeed_dpo.data.preprocessing.pair_candidates import Candidate, candidate_pairs, check_margin, ranked_pair
from mindspeed_dpo.data.preprocessing.rankings import LIST, rank_responses, ranking_columns, usable_responses
from mindspeed_dpo.data.preprocessing.settings import PreprocessSettings
from mindspeed_dpo.data.tokenization.dialogue_parsing import write_messages
from mindspeed_dpo.data.tokenization.encoders import Encoder, make_encoder
from mindspeed_dpo.data.tokenization.examples import (
    PairExample,
    PairTokens,
    PromptExample,
    RankedExample,
    RankedTokens,
    Row,
    RowDropped,
)
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
        is_turn_changed: Whether a scored message is rendered differently once others follow.
    """

    columns: dict[str, NDArray[np.int32]]
    prompt_tail: int = 0
    texts: dict[str, str] = field(default_factory=dict)
    is_turn_changed: bool = False


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
        self._rating_columns = self._handler.rating_columns(settings.map_keys)
        self._columns = resolve_columns(self._handler.columns, settings.map_keys, available, source)
        named = (*settings.dataset_additional_keys, *settings.row_filter)
        self.read_columns = frozenset({*self._columns.columns, *named})
        self.unread_columns = tuple(column for column in available if column not in self.read_columns)
        missing = [key for key in named if key != LABELS and key not in available]
        if missing:
            present = ", ".join(available)
            setting = "row_filter" if missing[0] in settings.row_filter else "dataset_additional_keys"
            raise ValueError(f"{source}: {setting}: no column {missing[0]!r}; columns in the data: {present}")
        tokenizer = load_tokenizer(
            settings.tokenizer_name_or_path or "",
            use_fast=not settings.tokenizer_not_use_fast,
            trust_remote_code=settings.trust_remote_code,
        )
        self.encoder: Encoder = make_encoder(
            tokenizer,
            settings.prompt_type or "",
            settings.prompt_type_path,
            settings.enable_thinking,
            mask_history=settings.mask_history,
            response_end=settings.response_end,
        )

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the token columns."""
        if self._handler.kind == "prompt":
            return (*PROMPT_COLUMNS, *self.settings.dataset_additional_keys)
        return RANKING_COLUMNS if self.settings.pair_selection == LIST else PAIR_COLUMNS

    @property
    def text_column_names(self) -> tuple[str, ...]:
        """Names of the text columns, which are stored as JSON."""
        own = self._rating_columns if self._handler.kind == "pair" else (MESSAGES,)
        return (*own, *self.settings.dataset_additional_keys)

    @property
    def note(self) -> str | None:
        """Warning about the prompt type, or None; warnings concern responses and so only pairs."""
        return self.encoder.note if self._handler.kind == "pair" else None

    def encode(self, row: Row) -> list[EncodedRow | RowDropped]:
        """Convert one raw row to one example, or to the pairs of its responses, of which some may be dropped.

        A ranking is one example, and each response that is left out of it is one that is dropped.

        Raises:
            RowDropped: The row cannot be used.
        """
        self._check_filter(row)
        example = self._handler.read(row, self._columns)
        if isinstance(example, PromptExample):
            return [self._prompt(example, row)]
        if isinstance(example, PairExample):
            return [self._pair(example, row)]
        if self.settings.pair_selection == LIST:
            return self._ranking(example, row)
        candidates = candidate_pairs(example, self.settings.pair_selection, self.settings.seed)
        return [self._candidate(example, candidate, row) for candidate in candidates]

    def _check_filter(self, row: Row) -> None:
        for column, allowed in self.settings.row_filter.items():
            if _written(row.get(column)) not in map(_written, allowed):
                raise RowDropped("filtered", f"{column} is {row.get(column)!r:.80}")

    def _candidate(self, example: RankedExample, candidate: Candidate, row: Row) -> EncodedRow | RowDropped:
        try:
            return self._pair(ranked_pair(example, *candidate), row)
        except RowDropped as dropped:
            return dropped

    def _pair(self, example: PairExample, row: Row) -> EncodedRow:
        check_margin(example, self.settings.min_score_margin)
        tokens = self.encoder.pair(example)
        self._check_pair(tokens)
        ignored = [IGNORE_INDEX] * len(tokens.prompt)
        rows = (
            tokens.prompt + tokens.chosen,
            ignored + _labels(tokens.chosen, tokens.chosen_scored),
            tokens.prompt + tokens.rejected,
            ignored + _labels(tokens.rejected, tokens.rejected_scored),
        )
        columns = {name: _array(ids) for name, ids in zip(PAIR_COLUMNS, rows, strict=True)}
        texts = self._ratings(example.scores, example.margin) | self._additional_texts(row)
        return EncodedRow(columns, tokens.prompt_tail, texts, tokens.is_turn_changed)

    def _ranking(self, example: RankedExample, row: Row) -> list[EncodedRow | RowDropped]:
        ranked, left_out = rank_responses(example, self.settings.min_score_margin)
        if not ranked.responses:
            return [*left_out]
        tokens = self.encoder.responses(ranked.prompt, ranked.responses)
        _check_prompt(tokens)
        kept, unusable = usable_responses(tokens, self.settings.seq_length)
        left_out += unusable
        if len(kept) < 2:
            return [*left_out]
        responses = [tokens.responses[k] for k in kept]
        labels = [_labels(tokens.responses[k], tokens.scored[k]) for k in kept]
        values = ranking_columns(tokens.prompt, responses, labels, IGNORE_INDEX)
        columns = {name: _array(ids) for name, ids in zip(RANKING_COLUMNS, values, strict=True)}
        best, worst = ranked.scores[kept[0]], ranked.scores[kept[-1]]
        assert best is not None and worst is not None
        texts = self._ratings((best, worst), best - worst) | self._additional_texts(row)
        return [EncodedRow(columns, tokens.prompt_tail, texts, tokens.is_turn_changed), *left_out]

    def _check_pair(self, tokens: PairTokens) -> None:
        _check_prompt(tokens)
        if not tokens.chosen or not tokens.rejected:
            raise RowDropped("empty_response", "a response has no tokens")
        if tokens.chosen == tokens.rejected:
            raise RowDropped("identical_responses", "both responses have the same tokens")
        self._check_length(len(tokens.prompt) + max(len(tokens.chosen), len(tokens.rejected)))

    def _ratings(self, scores: tuple[float, float] | None, margin: float | None) -> dict[str, str]:
        """Return the rating of a pair, or of the ends of a ranking, as JSON text of each of its columns."""
        values = dict(zip(SCORE_COLUMNS, (*(scores or (None, None)), margin), strict=True))
        return {name: json_text(values[name]) for name in self._rating_columns}

    def _additional_texts(self, row: Row) -> dict[str, str]:
        return {key: _json_text(key, row.get(key)) for key in self.settings.dataset_additional_keys}

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


def _check_prompt(tokens: PairTokens | RankedTokens) -> None:
    if not tokens.prompt:
        raise RowDropped("empty_prompt", "the prompt has no tokens")
    if tokens.is_prompt_changed:
        raise RowDropped("changed_by_response", "part of the prompt would be trained as a response")


def _written(value: Any) -> str:
    """Return a value as it is compared: values of YAML and csv files are texts."""
    return "null" if value is None else str(value).strip().lower()


def _json_text(key: str, value: Any) -> str:
    try:
        return json_text(value)
    except TypeError as error:
        raise RowDropped("not_text", f"the additional key {key}: {error}") from error


def _labels(ids: list[int], scored: list[bool] | None) -> list[int]:
    """Return the labels of a response: its ids, ignored where the assistant did not write them."""
    if scored is None:
        return ids
    return [token if is_scored else IGNORE_INDEX for token, is_scored in zip(ids, scored, strict=True)]


def _array(ids: Sequence[int]) -> NDArray[np.int32]:
    return np.asarray(ids, dtype=np.int32)
