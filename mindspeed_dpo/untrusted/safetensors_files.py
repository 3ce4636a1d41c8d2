"""Files in the safetensors format. The library checks their headers; here its errors get the name of the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from mindspeed_dpo.untrusted.errors import MalformedDataError

_NO_MEMORY = "allocate memory"
"""In what torch and the system say where memory is short: "can't allocate memory", "Cannot allocate memory"."""


@contextmanager
def safetensors_errors(path: Path, part: str = "") -> Iterator[None]:
    """Report what safetensors raises for a damaged file, or for one that is larger than memory.

    Raises:
        MalformedDataError: In place of an error of the library; the message names file and part.
    """
    try:
        yield
    except (
        SafetensorError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        OverflowError,
        RuntimeError,
        MemoryError,
    ) as error:
        if isinstance(error, MalformedDataError):
            raise
        reason = " ".join(str(error).split())[:300]
        is_memory = isinstance(error, MemoryError) or _NO_MEMORY in reason.lower()
        problem = "does not fit into the memory that is left" if is_memory else "is damaged or truncated"
        raise MalformedDataError(f"{path}{f': {part}' if part else ''} {problem}: {reason}") from error


def open_safetensors(path: Path) -> Any:
    """Open a file; tensors are read on request, by `get_slice`.

    Raises:
        MalformedDataError: The header is damaged, or the file is truncated.
    """
    with safetensors_errors(path):
        return safe_open(path, framework="pt", device="cpu")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read all weights of a file by name; they have any shape and the stored dtype.

    Raises:
        MalformedDataError: The file is damaged or truncated.
    """
    handle = open_safetensors(path)
    with safetensors_errors(path):
        return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
