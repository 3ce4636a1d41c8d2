"""Reads metrics.jsonl."""

from __future__ import annotations

import json
from pathlib import Path

from mindspeed_dpo.observability.metrics_jsonl import TIME


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The complete lines of a metrics file without their times, in order; numbers without a JSON form are text."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [
        {name: value if name == "step" else float(value) for name, value in record.items() if name != TIME}
        for record in records
    ]


def num_steps(output_dir: Path) -> int:
    """Lines of metrics.jsonl so far."""
    path = output_dir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0
