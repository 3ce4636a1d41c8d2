"""Logs sample responses with their scores at an interval: a table in the log, and all rows in `samples.jsonl`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from mindspeed_dpo.algorithms.pairing import Selection
from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.observability.live_status import live_status
from mindspeed_dpo.observability.logs import CONSOLE_ONLY, FILE_ONLY
from mindspeed_dpo.storage.atomic_write import write_text_atomically
from mindspeed_dpo.storage.write_errors import write_errors
from mindspeed_dpo.trainers.loop import is_due
from mindspeed_dpo.untrusted.json_text import parse_json_object
from mindspeed_dpo.untrusted.text_files import has_file, read_lines

logger = logging.getLogger(__name__)

Decode = Callable[[Sequence[int]], str]

TABLE_PROMPTS, TABLE_WIDTH = 4, 120


@dataclass(frozen=True)
class SampleTable:
    """Writes samples of the policy's responses.

    Attributes:
        path: Path of `samples.jsonl`.
        decode: Decodes token ids to text.
        interval: Steps between tables; None or 0 for none.
        completed_steps: Steps completed by the run that is resumed; rows of later steps are dropped, as this run writes
            them again.
    """

    path: Path
    decode: Decode
    interval: int | None
    completed_steps: int = 0

    def __post_init__(self) -> None:
        """Drop the rows that were written after the checkpoint that this run resumes from."""
        if has_file(self.path):
            earlier = [line for number, line in read_lines(self.path) if self._is_earlier(line, number)]
            with write_errors(self.path):
                write_text_atomically(self.path, "".join(earlier))

    def _is_earlier(self, line: str, number: int) -> bool:
        """Return whether a line is complete and of a step up to the checkpoint."""
        location = f"{self.path}, line {number}"
        return line.endswith("\n") and parse_json_object(line, location).integer("step") <= self.completed_steps

    def write(
        self, step: int, rollouts: RolloutBatch, scores: NDArray[np.float32], selection: Selection
    ) -> list[dict[str, Any]]:
        """Write the samples of a step if they are due.

        Args:
            step: Steps completed.
            rollouts: P prompts with K responses each.
            scores: [P, K] float32 scores of the responses.
            selection: The pairs selected among them.

        Returns:
            The rows that were written; none if they are not due.

        Raises:
            WriteError: The file cannot be written.
        """
        if not is_due(step, self.interval):
            return []
        records = list(self._records(step, rollouts, scores, selection))
        with write_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        _log_table(step, records)
        return records

    def _records(
        self, step: int, rollouts: RolloutBatch, scores: NDArray[np.float32], selection: Selection
    ) -> Iterator[dict[str, Any]]:
        roles = _roles(selection)
        samples = zip(rollouts.samples.prompts(), rollouts.samples.responses(), strict=True)
        for p, (prompt, responses) in enumerate(samples):
            text = self.decode(prompt.tolist())
            for k, response in enumerate(responses):
                score = float(scores[p, k])
                yield {
                    "step": step,
                    "row": int(rollouts.rows[p]),
                    "prompt": text,
                    "response": self.decode(response.tolist()),
                    "num_tokens": len(response),
                    "score": score if np.isfinite(score) else None,
                    "ended": bool(rollouts.ended[p, k]),
                    "role": roles.get((p, k), ""),
                }


def _roles(selection: Selection) -> dict[tuple[int, int], str]:
    """Map (prompt, response) to its role in a pair; with several pairs per prompt a response may have both roles."""
    roles: dict[tuple[int, int], set[str]] = {}
    for prompt, pair in zip(selection.prompts.tolist(), selection.responses.tolist(), strict=True):
        for response, name in zip(pair, ("chosen", "rejected"), strict=True):
            roles.setdefault((prompt, response), set()).add(name)
    return {key: "+".join(sorted(names)) for key, names in roles.items()}


def _log_table(step: int, records: Sequence[dict[str, Any]]) -> None:
    """Log the first prompts as a table, which on a terminal has its width."""
    title, width = f"sample responses of step {step}:", live_status.width
    logger.info("%s\n%s", title, _as_table(records, TABLE_WIDTH), extra=FILE_ONLY if width is not None else {})
    if width is not None:
        logger.info("%s\n%s", title, _as_table(records, min(width, TABLE_WIDTH)), extra=CONSOLE_ONLY)


def _as_table(records: Sequence[dict[str, Any]], width: int) -> str:
    """Render the first prompts as a text table."""
    table = Table(show_lines=False, expand=True)
    for name, ratio in (("prompt", 3), ("response", 5)):
        table.add_column(name, ratio=ratio, overflow="ellipsis", no_wrap=True)
    for name in ("score", "pair"):
        table.add_column(name, justify="right" if name == "score" else "left", no_wrap=True)
    shown: list[int] = []
    for record in records:
        is_new = record["row"] not in shown
        if is_new and len(shown) == TABLE_PROMPTS:
            break
        shown += [record["row"]] if is_new else []
        score = "–" if record["score"] is None else f"{record['score']:.4f}"
        # Plain text: brackets are not markup.
        table.add_row(*map(_printable, (record["prompt"] if is_new else "", record["response"], score, record["role"])))
    console = Console(width=width, color_system=None, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip()


def _printable(text: str) -> str:
    """Escape line ends and control characters, which would break the table."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
