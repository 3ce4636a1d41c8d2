"""What safetensors raises becomes a sentence that tells damage from a lack of memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.safetensors_files import safetensors_errors


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MemoryError(), "does not fit into the memory that is left"),
        (OSError(12, "Cannot allocate memory"), "does not fit into the memory that is left"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "does not fit into the memory that is"),
        (ValueError("invalid header"), "is damaged or truncated: invalid header"),
    ],
)
def test_a_file_larger_than_memory_is_not_called_damaged(error: Exception, sentence: str) -> None:
    with (
        pytest.raises(MalformedDataError, match=f"^w.safetensors: a.weight {sentence}"),
        safetensors_errors(Path("w.safetensors"), "a.weight"),
    ):
        raise error
