"""Preference pairs on disk, and runs of the tiny model over them, for tests of workers and trainers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.data.indexed.column_group import IGNORE_INDEX, PAIR_COLUMNS, RANKING_COLUMNS
from mindspeed_dpo.data.indexed.column_group_writer import writing
from tests.support.runs import Layout, tiny_run

Pair = tuple[list[int], list[int], list[int]]
PAIRS: list[Pair] = [
    ([5, 1, 2], [3], [4, 9, 6]),
    ([7, 20], [8, 1], [2, 0]),
    ([11], [200, 19, 0], [1]),
    ([3, 3, 0, 9], [10, 2], [2, 10]),
    ([30, 31], [32, 33, 34, 35], [36]),
]
"""Five pairs: they divide by no number of replicas."""


RANKINGS: list[list[list[int]]] = [
    [[5, 1, 2], [3], [4, 9, 6], [12, 13], [21]],
    [[7, 20], [8, 1], [2, 0]],
    [[11], [200, 19, 0], [1], [16]],
    [[3, 3, 0, 9], [10, 2], [2, 10], [40]],
    [[30, 31], [32, 33, 34, 35], [36], [37], [50, 51, 52]],
]
"""Five prompts, each followed by two to four responses from the best to the worst."""


def write_rankings(
    prefix: Path, rankings: Sequence[list[list[int]]] = RANKINGS, margins: Sequence[float] | None = None
) -> Path:
    """Write a set of rankings, with a column `margin` if there are margins, and return its prefix."""
    with writing(prefix, RANKING_COLUMNS, () if margins is None else ("margin",)) as writer:
        for number, (prompt, best, *between, worst) in enumerate(rankings):
            ignored = [IGNORE_INDEX] * len(prompt)
            ids = [token for response in between for token in response]
            rows = (prompt + best, ignored + best, prompt + worst, ignored + worst, ids, ids, list(map(len, between)))
            texts = None if margins is None else {"margin": str(margins[number])}
            writer.append(dict(zip(RANKING_COLUMNS, rows, strict=True)), texts)
        writer.commit({})
    return prefix


def write_pairs(prefix: Path, pairs: Sequence[Pair] = PAIRS, margins: Sequence[float] | None = None) -> Path:
    """Write a pair set, with a column `margin` if there are margins, and return its prefix."""
    with writing(prefix, PAIR_COLUMNS, () if margins is None else ("margin",)) as writer:
        for number, (prompt, chosen, rejected) in enumerate(pairs):
            ignored = [IGNORE_INDEX] * len(prompt)
            rows = (prompt + chosen, ignored + chosen, prompt + rejected, ignored + rejected)
            texts = None if margins is None else {"margin": str(margins[number])}
            writer.append(dict(zip(PAIR_COLUMNS, rows, strict=True)), texts)
        writer.commit({})
    return prefix


def random_run(folder: Path, layout: Layout = (1, 1, 1), **settings: Any) -> RunConfig:
    """A run over `PAIRS` that starts from random weights."""
    prefix = folder / "pairs"
    if not folder.joinpath("pairs_packed_meta.json").exists():
        write_pairs(prefix)
    keys = {
        "data_path": prefix,
        "output_dir": folder / "out",
        "tokenizer_name_or_path": None,
        "load": None,
        "finetune": False,
        "random_init": True,
        "train_iters": 4,
        "lr_warmup_fraction": None,
        "global_batch_size": 2 * layout[2],
        "micro_batch_size": 1,
        "save_interval": None,
        **settings,
    }
    return tiny_run(layout, **keys)
