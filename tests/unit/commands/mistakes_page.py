"""The page docs/mistakes.md: `python -m tests.unit.commands.mistakes_page > docs/mistakes.md` writes it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from tests.unit.commands.mistake_table import CHAPTERS

_HEAD = """# Usual mistakes and their messages

[中文](mistakes.zh.md)

What a command prints for a usual mistake, and its exit code: 2 for a command line or a configuration that cannot be
used, 1 for files, devices or folders that cannot be. In either case no device is taken and nothing is trained or
converted. `…` stands for text that is left out. A test tries every row (`tests/unit/commands/test_usual_mistakes.py`),
and this page is made of the same table.

In the commands `models/tiny` is a folder with a model, `pairs.jsonl` a file of pairs, `prompts.jsonl` one of prompts,
`tokens/pairs` the prefix of token files, and `conf/mine.yaml` a configuration that uses them.
"""


def page() -> str:
    """Return the text of the page."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield _HEAD
    for title, mistakes in CHAPTERS.items():
        yield f"## {title}\n"
        yield "| mistake | command | message | exit code |\n|---|---|---|---|"
        for one in mistakes:
            cells = (one.title, _code(one.command), _code(one.message), str(one.code))
            yield f"| {' | '.join(cells)} |"
        yield ""


def _code(text: str) -> str:
    """Text as code within a table, with a longer fence if it has back quotes itself."""
    fence = "``" if "`" in text else "`"
    space = " " if fence == "``" else ""
    return f"{fence}{space}{text.replace('|', chr(92) + '|')}{space}{fence}"


if __name__ == "__main__":
    sys.stdout.write(page())
