"""`metrics.jsonl`: one JSON object per step, floats in full precision, readable during the run."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from mindspeed_dpo.observability.metric_names import metric
from mindspeed_dpo.storage.atomic_write import write_text_atomically
from mindspeed_dpo.storage.write_errors import write_errors
from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.json_text import parse_json_object
from mindspeed_dpo.untrusted.text_files import read_lines

METRICS_FILE = "metrics.jsonl"
TIME = "time"
"""Key of the time at which a line was written, in seconds since 1970 (UTC); files of older versions lack it."""

logger = logging.getLogger(__name__)


class MetricsFile:
    """Tracker that appends `{"step": n, "time": seconds, name: value, …}` lines and flushes each.

    Numbers without a JSON form are written as the strings "NaN", "Infinity" and "-Infinity".

    Args:
        path: Path of the file; its folder is created.
        completed_steps: Steps already done before this run starts. Lines of later steps are dropped, because this
            run writes them again; 0 starts a new file.
        clock: Seconds since 1970 (UTC).
    """

    def __init__(self, path: str | Path, *, completed_steps: int = 0, clock: Callable[[], float] = time.time) -> None:
        self.path, self._clock = Path(path), clock
        with write_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                _truncate_after(self.path, completed_steps)
            self._file = self.path.open("a", encoding="utf-8")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the line of one step.

        Raises:
            ValueError: A name is not in the table of metrics.
            WriteError: The line cannot be written; a run that resumes drops what there is of it.
        """
        for name in metrics:
            metric(name)
        record: dict[str, int | float | str] = {"step": step, TIME: round(self._clock(), 3)}
        record.update({name: _json_number(value) for name, value in metrics.items() if name != "step"})
        with write_errors(self.path):
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file.

        Raises:
            WriteError: Buffered bytes cannot be written.
        """
        with write_errors(self.path):
            self._file.close()


def _lines(path: Path) -> list[tuple[str, dict[str, float]]]:
    """Return every complete line with its parsed record."""
    # A run killed while writing leaves an incomplete last line.
    lines = [(number, line) for number, line in read_lines(path) if line.endswith("\n")]
    return [(line, _record(line, f"{path}, line {number}")) for number, line in lines]


def _record(line: str, location: str) -> dict[str, float]:
    try:
        record = parse_json_object(line, location)
        values = {name: float(value) for name, value in record.items() if name != "step"}
        return {"step": record.integer("step"), **values}
    except (TypeError, ValueError) as error:
        raise MalformedDataError(
            f"{location}: expected a JSON object with a step and numbers, got {line[:80]!r}"
        ) from error


def _truncate_after(path: Path, completed_steps: int) -> None:
    """Atomically rewrite the file with the lines of completed steps only."""
    lines = [line for line, record in _lines(path) if record["step"] <= completed_steps]
    write_text_atomically(path, "".join(lines))
    logger.info("%s: resuming with %d logged steps up to step %d", path, len(lines), completed_steps)


def _json_number(value: float) -> int | float | str:
    if isinstance(value, int):
        return value
    number = float(value)  # also takes numpy scalars
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else ("Infinity" if number > 0 else "-Infinity")
