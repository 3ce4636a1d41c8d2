"""A tiny model folder and raw pairs, made once in this process, for tests of what a command is completed with."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path

from tests.support.commands import run_here

PAIRS = [{"prompt": f"{n} + 1 = ?", "chosen": f"It is {n + 1}.", "rejected": f"No idea, {n}."} for n in range(70)]


@functools.cache
def model_folder() -> Path:
    """Return a Hugging Face folder with the examples' model and tokenizer."""
    folder = Path(tempfile.mkdtemp()) / "hf"
    run_here("examples/tiny/make_model.py", folder)
    return folder


def write_rows(path: Path, rows: object = PAIRS) -> Path:
    """Write rows as JSON lines."""
    assert isinstance(rows, list)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
