"""From raw rows to the micro-batches of a case, as TRL 1.16 tokenises, truncates and pads them.

* Plain text: no bos; prompt and prompt+response are tokenised, the response starts where their ids diverge (the
  smaller position of the two). eos is appended to a response that does not end with it.
* Conversations: the prompt is rendered with the generation prompt, prompt+response without. No eos is appended.
* A row whose prompt alone has `max_length` tokens or more is dropped. Sequences keep their first `max_length` tokens.
* Micro-batches are consecutive rows, all chosen before all rejected, padded on the right.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tests.recordings.files import POLICY, read_rows

Pair = tuple[list[int], list[int], list[int]]
"""Token ids of a prompt, its chosen and its rejected response."""


@dataclass(frozen=True)
class MicroBatch:
    """Chosen sequences, then rejected ones: all tensors int64, [2·pairs, tokens]."""

    rows: list[int]
    """Lines of the data file, counted from 0."""
    ids: Tensor
    attention: Tensor
    """1 for a token, 0 for padding."""
    response: Tensor
    """1 for a token of the response, 0 for the prompt and padding."""


@lru_cache(maxsize=8)
def micro_batches(data: str, max_length: int, size: int, count: int) -> list[MicroBatch]:
    """The first `count` micro-batches of `size` pairs of a data file."""
    tokenizer = AutoTokenizer.from_pretrained(POLICY)
    pairs = [_encode(row, tokenizer) for row in read_rows(data)]
    fitting = [row for row, pair in enumerate(pairs) if len(pair[0]) < max_length]
    groups = [fitting[place * size : (place + 1) * size] for place in range(count)]
    return [_collate(group, [pairs[row] for row in group], tokenizer.pad_token_id, max_length) for group in groups]


def of_case(case: dict[str, Any]) -> list[MicroBatch]:
    """All micro-batches of a case, in order."""
    hyper = case["hp"]
    count = hyper["max_steps"] * hyper["accumulation"]
    return micro_batches(case["data"], case["max_length"], hyper["batch_size"], count)


def fingerprint(batches: Iterable[MicroBatch]) -> str:
    """SHA-256 of all token ids and masks, as it is recorded of what TRL trained on."""
    lists = [[tensor.tolist() for tensor in (one.ids, one.attention, one.response)] for one in batches]
    return hashlib.sha256(json.dumps(lists).encode()).hexdigest()


def _encode(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Pair:
    if isinstance(row["prompt"], str):
        prompt = tokenizer(row["prompt"])["input_ids"]
        full = [tokenizer(row["prompt"] + _ended(row[side], tokenizer))["input_ids"] for side in ("chosen", "rejected")]
    else:
        prompt = _rendered(row["prompt"], tokenizer, True)
        full = [_rendered(row["prompt"] + row[side], tokenizer, False) for side in ("chosen", "rejected")]
    start = min(_common(prompt, ids) for ids in full)
    return prompt[:start], full[0][start:], full[1][start:]


def _ended(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    return text if text.endswith(tokenizer.eos_token) else text + tokenizer.eos_token


def _rendered(messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, generation: bool) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _common(one: list[int], other: list[int]) -> int:
    """Length of what two lists start with alike."""
    differing = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))


def _collate(rows: list[int], pairs: list[Pair], pad: int, max_length: int) -> MicroBatch:
    ids, response = [], []
    for side in (1, 2):
        for pair in pairs:
            ids.append((pair[0] + pair[side])[:max_length])
            response.append(([0] * len(pair[0]) + [1] * len(pair[side]))[:max_length])
    width = max(map(len, ids))
    attention = [[1] * len(one) for one in ids]
    return MicroBatch(rows, _padded(ids, width, pad), _padded(attention, width, 0), _padded(response, width, 0))


def _padded(sequences: list[list[int]], width: int, value: int) -> Tensor:
    return torch.tensor([one + [value] * (width - len(one)) for one in sequences])
