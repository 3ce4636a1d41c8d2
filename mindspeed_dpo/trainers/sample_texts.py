"""Responses and pairs as tables in Markdown, for trackers that show texts."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from mindspeed_dpo.report.sample_files import ExamplePair

MAX_ROWS = 32
_LINE_END = " ↵ "


def responses_as_markdown(records: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of sample responses; the records are those of `samples.jsonl`."""
    rows = [
        (one["prompt"], one["response"], "" if one["score"] is None else f"{one['score']:.4f}", one["role"])
        for one in records[:MAX_ROWS]
    ]
    return _table(("prompt", "response", "score", "pair"), rows)


def pairs_as_markdown(examples: Sequence[ExamplePair]) -> str:
    """Return a table of evaluated pairs with their margins."""
    rows = [(one.prompt, one.chosen, one.rejected, f"{one.margin:.4f}") for one in examples[:MAX_ROWS]]
    return _table(("prompt", "chosen", "rejected", "margin"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Escape what would end a cell, or be formatted."""
    escaped = html.escape(_LINE_END.join(text.splitlines()), quote=False)
    return "".join(f"&#{ord(one)};" if one in "|\\`*_[]~" else one for one in escaped)
