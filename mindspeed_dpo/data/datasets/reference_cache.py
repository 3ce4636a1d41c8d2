"""Reference log-probabilities on disk: one float64 sum per response, in a file named by a fingerprint of its inputs.

The fingerprint covers weights, data and settings, so changed inputs lead to another file. The content has a checksum; a
damaged file counts as missing and is computed again. So does a file of version 1, whose float32 sums had an error that
grew with the length of a response.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.config.settings.data import DataConfig
from mindspeed_dpo.config.settings.online import RolloutConfig
from mindspeed_dpo.data.datasets.splits_and_blending import parse_data_path
from mindspeed_dpo.data.indexed.column_group import PAIR_COLUMNS, PROMPT_COLUMNS, column_stem

logger = logging.getLogger(__name__)

_CHECKSUM_BYTES = 32
_BLOCK_BYTES = 1 << 24
VERSION = 2
"""Version of the summation and of the file format; raise it when either changes."""


class ReferenceCache:
    """A file of cached log-probabilities."""

    def __init__(self, folder: str | Path, fingerprint: str, num_rows: int) -> None:
        """Locate a cache.

        Args:
            folder: Folder of the caches.
            fingerprint: Fingerprint of all inputs of the values.
            num_rows: Number of rows of the dataset.
        """
        self.path = Path(folder) / f"{fingerprint}.v{VERSION}.ref_logps"
        self._first_version = Path(folder) / f"{fingerprint}.ref_logps"
        self._num_rows = num_rows

    def read(self) -> NDArray[np.float64] | None:
        """Return the values [rows, 2] float64, in nats, or None if there is no valid file of this version."""
        if not self.path.is_file():
            if self._first_version.is_file():
                reason = "%s was written by an earlier version with less exact sums; computing the reference again"
                logger.warning(reason, self._first_version)
            return None
        content = self.path.read_bytes()
        checksum, payload = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
        if hashlib.sha256(payload).digest() != checksum or len(payload) != self._num_rows * 16:
            logger.warning("%s is damaged; computing the reference again", self.path)
            return None
        return np.frombuffer(payload, dtype="<f8").reshape(self._num_rows, 2)

    def write(self, values: NDArray[np.floating]) -> None:
        """Write values [rows, 2], floating dtype, in nats, atomically."""
        payload = np.ascontiguousarray(values, dtype="<f8").tobytes()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        temporary.write_bytes(hashlib.sha256(payload).digest() + payload)
        os.replace(temporary, self.path)


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
