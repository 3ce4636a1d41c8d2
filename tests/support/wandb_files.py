"""What W&B wrote offline: a log of records in blocks, as LevelDB writes them, each a protobuf message."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.commands import until

HEADER, BLOCK, RECORD_HEADER = 7, 32768, 7
FULL, LAST = 1, 4


@dataclass
class WandbRun:
    """One file of a run; W&B writes on for a moment after the run has ended."""

    id: str = ""
    project: str = ""
    name: str = ""
    has_ended: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    steps: dict[int, dict[str, float]] = field(default_factory=dict)


def read_runs(folder: Path) -> list[WandbRun]:
    """The complete runs below a folder, the oldest first."""
    until(lambda: all(run.has_ended for run in _runs(folder)), "the end of W&B's files", timeout_s=60)
    return _runs(folder)


def _runs(folder: Path) -> list[WandbRun]:
    return [_run(path) for path in sorted(folder.glob("wandb/*run-2*/*.wandb"))]


def _run(path: Path) -> WandbRun:
    from wandb.proto import wandb_internal_pb2 as messages

    run = WandbRun()
    for content in _records(path.read_bytes()):
        record = messages.Record()
        record.ParseFromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.id, run.project, run.name = record.run.run_id, record.run.project, record.run.display_name
            run.config.update({item.key: json.loads(item.value_json) for item in record.run.config.update})
        elif kind == "exit":
            run.has_ended = True
        elif kind == "history":
            values = {
                item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
            }
            step = values.pop("_step")
            run.steps[int(step)] = {name: value for name, value in values.items() if not name.startswith("_")}
    return run


def _records(data: bytes) -> Iterator[bytes]:
    position, content = HEADER, b""
    while position + RECORD_HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < RECORD_HEADER:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + RECORD_HEADER])
        position += RECORD_HEADER
        content += data[position : position + length]
        position += length
        if kind in (FULL, LAST):
            yield content
            content = b""
