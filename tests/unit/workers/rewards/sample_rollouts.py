"""Rollouts made of text for tests of scorers, with the tokenizer and columns that belong to them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from mindspeed_dpo.batches import PreferenceBatch, RolloutBatch
from mindspeed_dpo.data.tokenization.tokenizer import load_tokenizer
from mindspeed_dpo.workers.rewards.detokenization import TextReader
from tests.support.tokenizers import save_chat_tokenizer

FUNCTIONS = "tests.support.reward_functions"
END = "<|end|>"


@cache
def tokenizer_dir() -> Path:
    return save_chat_tokenizer(Path(tempfile.mkdtemp(prefix="scorers_")))


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(tokenizer_dir())


class Columns:
    """A prompt set's columns, the value of row r being `name` of r."""

    def __init__(self, columns: Mapping[str, Any] | None = None) -> None:
        self._columns = columns or {}

    def columns(self, rows: Sequence[int]) -> dict[str, list[Any]]:
        return {
            "messages": [[{"role": "user", "content": f"question {row}"}] for row in rows],
            **{name: [value(int(row)) for row in rows] for name, value in self._columns.items()},
        }


def rollouts(
    conversations: Sequence[tuple[str, Sequence[str]]], *, rows: Sequence[int] | None = None, version: int = 0
) -> RolloutBatch:
    """Prompts with their responses; one that ends with the end token has ended."""
    ids = tokenizer()
    encode = ids.encode
    batch = PreferenceBatch.from_lists(
        [encode(prompt, add_special_tokens=False) for prompt, _ in conversations],
        [[encode(response, add_special_tokens=False) for response in responses] for _, responses in conversations],
    )
    return RolloutBatch(
        batch,
        torch.arange(len(conversations)) if rows is None else torch.tensor(rows),
        torch.tensor([[response.endswith(END) for response in responses] for _, responses in conversations]),
        version=version,
    )


def reader(columns: Mapping[str, Any] | None = None, *, extract_answer: bool = False) -> TextReader:
    return TextReader(tokenizer(), Columns(columns), list(columns or {}), extract_answer=extract_answer)
