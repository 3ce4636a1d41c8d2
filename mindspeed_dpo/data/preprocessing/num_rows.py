"""About how many rows raw data has, for the share that is shown while it is preprocessed."""

from __future__ import annotations

from pathlib import Path

from mindspeed_dpo.data.preprocessing.input_sources import RawData
from mindspeed_dpo.data.preprocessing.readers import file_format
from mindspeed_dpo.untrusted.arrow_files import parquet_num_rows
from mindspeed_dpo.untrusted.errors import MalformedDataError

_SAMPLE_BYTES = 1 << 24
"""Bytes of a text file of which the lines are counted; those of the rest follow from its size."""


def estimated_rows(raw: RawData) -> int | None:
    """Return about how many rows there are; None where only reading them all would tell.

    Files that cannot be read are left to their reader to report.
    """
    try:
        counts = [_rows_of(file) for file in raw.files]
    except (OSError, MalformedDataError):
        return None
    known = [count for count in counts if count is not None]
    if len(known) < len(counts) or not known:
        return None
    limit = raw.settings.max_samples
    return sum(known) if limit is None else min(sum(known), limit)


def _rows_of(file: Path) -> int | None:
    kind = file_format(file)
    if kind == "parquet":
        return parquet_num_rows(file)
    return _lines_of(file) if kind in ("json", "csv", "txt") and file.suffix != ".gz" else None


def _lines_of(file: Path) -> int | None:
    """Return about how many lines a file has, each of which is a row; None for a JSON list."""
    with file.open("rb") as lines:
        sample = lines.read(_SAMPLE_BYTES)
    if sample.lstrip().startswith(b"["):
        return None
    count = sample.count(b"\n") + (not sample.endswith(b"\n"))
    return count * file.stat().st_size // max(len(sample), 1)
