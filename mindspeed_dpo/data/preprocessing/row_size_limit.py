"""The limit for one row of a file that is preprocessed."""

from __future__ import annotations

from mindspeed_dpo.untrusted.errors import MalformedDataError

MAX_ROW_BYTES = 1 << 23
"""8 MiB: what is parsed of a row takes up to 20 times as much memory. Applied to characters where text is decoded."""


def row_too_long(location: str) -> MalformedDataError:
    """Return the error about a row that exceeds the limit; `location` begins its message."""
    return MalformedDataError(f"{location} has more than {MAX_ROW_BYTES} bytes, the limit for one row")
