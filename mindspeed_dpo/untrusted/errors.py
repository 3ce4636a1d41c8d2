"""The error of all readers, and its translation to the error of a caller."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mindspeed_dpo.storage.digests import DamageError


class MalformedDataError(ValueError):
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
