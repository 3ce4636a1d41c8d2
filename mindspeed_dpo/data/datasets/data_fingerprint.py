"""Fingerprints of the data of a run: paths do not count, content and truncation do."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from mindspeed_dpo.config.settings.data import DataConfig
from mindspeed_dpo.config.settings.generation import RolloutConfig
from mindspeed_dpo.data.datasets.splits_and_blending import parse_data_path
from mindspeed_dpo.data.indexed.column_group import PAIR_COLUMNS, PROMPT_COLUMNS, column_stem

_BLOCK_BYTES = 1 << 24


def data_fingerprint(data: DataConfig) -> str:
    """Hash what the token ids of a pair dataset depend on: content of the files and truncation."""
    return _fingerprint(data.data_path, PAIR_COLUMNS, str(data.seq_length), data.truncation)


def prompts_fingerprint(data: DataConfig, rollout: RolloutConfig) -> str:
    """Hash what the token ids of a prompt dataset depend on."""
    return _fingerprint(data.data_path, PROMPT_COLUMNS[:1], str(rollout.max_prompt_length), rollout.prompt_truncation)


def _fingerprint(data_path: str, columns: Sequence[str], *truncation: str) -> str:
    contents = [_content_hash(source.prefix, columns) for source in parse_data_path(data_path)]
    return hashlib.sha256("\n".join((*contents, *truncation)).encode()).hexdigest()


def _content_hash(prefix: str, columns: Sequence[str]) -> str:
    """Hash the token files themselves, since the hash in the metadata file may be outdated."""
    files = hashlib.sha256()
    for column in columns:
        with open(f"{column_stem(prefix, column)}.bin", "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                files.update(block)
    return files.hexdigest()
