"""The error of all readers, and its translation to the error of a caller."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from mindspeed_dpo.storage.digests import DamageError

MAX_MESSAGE_CHARACTERS = 2000
"""Length of the message of an error: what is read may be long, and messages quote it."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class QuotingError(ValueError):
    """An error whose message quotes what was read; of a long message both ends remain."""

    def __init__(self, message: str = "") -> None:
        super().__init__(shortened(message))


class MalformedDataError(QuotingError):
    """Data that cannot be read; the message names the file, and the row or key where there is one."""


@contextmanager
def damage_reported() -> Iterator[None]:
    """Raise a difference from a digest within the block as malformed data.

    Raises:
        MalformedDataError: In place of a `DamageError`.
    """
    try:
        yield
    except DamageError as error:
        raise MalformedDataError(str(error)) from error


@contextmanager
def reraised_as(kind: type[ValueError], advice: str = "") -> Iterator[None]:
    """Raise malformed data within the block as an error of another type.

    Args:
        kind: The type of the error to raise.
        advice: What the user should do, appended to the message.

    Raises:
        ValueError: Of type `kind`, in place of a `MalformedDataError`.
    """
    try:
        yield
    except MalformedDataError as error:
        raise kind(f"{error}; {advice}" if advice else str(error)) from error


def shortened(text: str, limit: int = MAX_MESSAGE_CHARACTERS) -> str:
    """Return a text of at most about `limit` characters, the two ends of a longer one.

    Control characters, which a terminal obeys, are written as Python writes them in a string.
    """
    text = _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)
    omitted, half = len(text) - limit, limit // 2
    return text if omitted <= 0 else f"{text[:half]} … {omitted} characters omitted … {text[-half:]}"
