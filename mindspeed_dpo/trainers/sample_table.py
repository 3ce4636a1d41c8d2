"""Sample answers with their scores, now and then: a table in the log, and every row in `samples.jsonl`."""

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
from mindspeed_dpo.trainers.loop import is_due

logger = logging.getLogger(__name__)

Decode = Callable[[Sequence[int]], str]

SAMPLES_FILE = "samples.jsonl"
TABLE_PROMPTS, TABLE_WIDTH = 4, 120


@dataclass(frozen=True)
class SampleTable:
    """Writes what the policy answered.

    Attributes:
        path: Of `samples.jsonl`.
        decode: From token ids to text.
        interval: Steps between tables; None or 0 writes none.
        completed_steps: Steps done before this run starts; rows of later ones are dropped, as this run writes them
            again.
    """

    path: Path
    decode: Decode
    interval: int | None
    completed_steps: int = 0

    def __post_init__(self) -> None:
        """Drop what a run wrote after the checkpoint that this one goes on from."""
        if self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= self.completed_steps]
            self.path.write_text("".join(kept), encoding="utf-8")

    def write(self, step: int, rollouts: RolloutBatch, scores: NDArray[np.float32], selection: Selection) -> None:
        """Write the step's answers, if it is time to.

        Args:
            step: Finished steps.
            rollouts: P prompts with K responses each.
            scores: [P, K] float32.
            selection: The pairs among them.
        """
        if not is_due(step, self.interval):
            return
        records = list(self._records(step, rollouts, scores, selection))
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        logger.info("sample answers of step %d:\n%s", step, _drawn(records))

    def _records(
        self, step: int, rollouts: RolloutBatch, scores: NDArray[np.float32], selection: Selection
    ) -> Iterator[dict[str, Any]]:
        roles = _roles(selection)
        answers = zip(rollouts.samples.prompts(), rollouts.samples.responses(), strict=True)
        for p, (prompt, responses) in enumerate(answers):
            text = self.decode(prompt.tolist())
            for k, response in enumerate(responses):
                score = float(scores[p, k])
                yield {
                    "step": step,
                    "row": int(rollouts.rows[p]),
                    "prompt": text,
                    "response": self.decode(response.tolist()),
                    "score": score if np.isfinite(score) else None,
                    "ended": bool(rollouts.ended[p, k]),
                    "role": roles.get((p, k), ""),
                }


def _roles(selection: Selection) -> dict[tuple[int, int], str]:
    """(prompt, response) to what it is in a pair; with several pairs of a prompt a response may be both."""
    found: dict[tuple[int, int], set[str]] = {}
    for prompt, pair in zip(selection.prompts.tolist(), selection.responses.tolist(), strict=True):
        for response, name in zip(pair, ("chosen", "rejected"), strict=True):
            found.setdefault((prompt, response), set()).add(name)
    return {place: "+".join(sorted(names)) for place, names in found.items()}


def _drawn(records: Sequence[dict[str, Any]]) -> str:
    """The first prompts as a table of text."""
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
        # As text: brackets in it are no markup.
        table.add_row(*map(_plain, (record["prompt"] if is_new else "", record["response"], score, record["role"])))
    console = Console(width=TABLE_WIDTH, color_system=None, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip()


def _plain(text: str) -> str:
    """Line ends and control characters as escapes, which would break the table."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
