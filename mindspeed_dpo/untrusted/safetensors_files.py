"""Files in the safetensors format. The library checks their headers; here its errors get the name of the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from mindspeed_dpo.untrusted.errors import MalformedDataError


@contextmanager
def safetensors_errors(path: Path, part: str = "the file") -> Iterator[None]:
    """Report what safetensors raises for a damaged file.

    Raises:
        MalformedDataError: In place of an error of the library; the message names file and part.
    """
    try:
        yield
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, OverflowError, RuntimeError) as error:
        if isinstance(error, MalformedDataError):
            raise
        reason = " ".join(str(error).split())[:300]
        raise MalformedDataError(f"{path}: {part} is damaged or truncated: {reason}") from error


def open_safetensors(path: Path) -> Any:
    """Open a file; tensors are read on request, by `get_slice`.

    Raises:
        MalformedDataError: The header is damaged, or the file is truncated.
    """
    with safetensors_errors(path):
        return safe_open(path, framework="pt", device="cpu")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file by name, in the stored shape and dtype.

    Raises:
        MalformedDataError: The file is damaged or truncated.
    """
    handle = open_safetensors(path)
    with safetensors_errors(path):
        return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
