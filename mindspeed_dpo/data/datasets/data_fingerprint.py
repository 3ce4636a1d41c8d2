"""Fingerprints of the data of a run: paths do not count, content and truncation do."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from mindspeed_dpo.config.settings.data import DataConfig
from mindspeed_dpo.config.settings.generation import RolloutConfig
from mindspeed_dpo.data.datasets.splits_and_blending import parse_data_path
from mindspeed_dpo.data.indexed.column_group import (
    PAIR_COLUMNS,
    PROMPT_COLUMNS,
    RANKING_COLUMNS,
    column_stem,
    columns_present,
)

_BLOCK_BYTES = 1 << 24


def data_fingerprint(data: DataConfig, *, ranked: bool = False) -> str:
    """Hash what the token ids of a pair dataset depend on: content of the files and truncation.

    Args:
        data: Settings of the data.
        ranked: Whether all responses of rankings are read, rather than the best and the worst.
    """
    columns = RANKING_COLUMNS if ranked else PAIR_COLUMNS
    return _fingerprint(data.data_path, columns, str(data.seq_length), data.truncation)


def prompts_fingerprint(data: DataConfig, rollout: RolloutConfig) -> str:
    """Hash what the token ids of a prompt dataset depend on."""
    return _fingerprint(data.data_path, PROMPT_COLUMNS[:1], str(rollout.max_prompt_length), rollout.prompt_truncation)


def _fingerprint(data_path: str, columns: Sequence[str], *truncation: str) -> str:
    contents = [_content_hash(source.prefix, columns) for source in parse_data_path(data_path)]
    return hashlib.sha256("\n".join((*contents, *truncation)).encode()).hexdigest()


def _content_hash(prefix: str, columns: Sequence[str]) -> str:
    """Hash the token files themselves, since the hash in the metadata file may be outdated."""
    files = hashlib.sha256()
    # A set of pairs, which are rankings of two, has fewer columns.
    lacking = set(RANKING_COLUMNS) - {*PAIR_COLUMNS, *columns_present(prefix)}
    for column in (column for column in columns if column not in lacking):
        with open(f"{column_stem(prefix, column)}.bin", "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                files.update(block)
    return files.hexdigest()
