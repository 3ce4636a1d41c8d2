"""Learned and evaluated pairs under one numbering."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mindspeed_dpo.data.datasets.preference_dataset import PreferenceDataset
from mindspeed_dpo.data.datasets.train_eval import TrainEvalPairs
from tests.unit.workers.pairs import PAIRS, write_pairs


@pytest.fixture
def parts(tmp_path: Path) -> list[PreferenceDataset]:
    prefixes = [
        write_pairs(tmp_path / name, pairs) for name, pairs in (("a", PAIRS), ("b", PAIRS[3:]), ("c", PAIRS[:1]))
    ]
    return [PreferenceDataset.open(str(prefix)) for prefix in prefixes]


def test_rows_of_the_sets_follow_those_trained_on(parts: list[PreferenceDataset]) -> None:
    train, b, c = parts
    joined = TrainEvalPairs(train, {"b": b, "c": c})
    assert len(joined) == len(PAIRS)
    assert {name: rows.tolist() for name, rows in joined.eval_rows.items()} == {"b": [5, 6], "c": [7]}
    for rows, part in ((np.array([4, 0]), train), (joined.eval_rows["b"][::-1], b), (joined.eval_rows["c"], c)):
        own = rows if part is train else rows - rows.min()
        ours, theirs = joined.batch(rows), part.batch(own)
        for field in ("prompt_tokens", "prompt_lengths", "response_tokens", "response_lengths"):
            assert torch.equal(getattr(ours, field), getattr(theirs, field)), field
    assert joined.lengths().tolist() == [row for part in parts for row in part.lengths().tolist()]


def test_without_sets_it_is_the_dataset_itself(parts: list[PreferenceDataset]) -> None:
    alone = TrainEvalPairs(parts[0], {})
    assert alone.eval_rows == {} and alone.counts == parts[0].counts
    assert alone.splits("60,40,0").valid.tolist() == parts[0].splits("60,40,0").valid.tolist()


def test_rows_of_two_sets_are_not_mixed_and_rows_beyond_refused(parts: list[PreferenceDataset]) -> None:
    joined = TrainEvalPairs(parts[0], {"b": parts[1]})
    with pytest.raises(ValueError, match="belong to several sets"):
        joined.batch([4, 5])
    with pytest.raises(IndexError):
        joined.batch([7])
