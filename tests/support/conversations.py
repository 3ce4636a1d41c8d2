"""Rows of preference conversations that look like real ones: of one or many turns, of a line or several pages."""

from __future__ import annotations

import random
from typing import Any

TEXTS = {
    "English": "Write a program that sorts numbers.\n\n```python\nprint(sorted([3, 1, 2]))\n```\tWhy — “does” it? ",
    "Chinese": "请用三句话介绍密歇根大学。\n\n国会议员的任期是六年，每两年换届一次！​😀 ",
}
"""By language: line breaks, code, quotation marks, characters of one to four bytes, one without width."""


def conversations(language: str, count: int) -> list[dict[str, Any]]:
    """Rows in the ShareGPT form; every seventh has a system message, every eleventh is longer than 4096 bytes."""
    source = random.Random(language)

    def turn(speaker: str, longest: int) -> dict[str, str]:
        text = TEXTS[language]
        start = source.randrange(len(text))
        return {"from": speaker, "value": (text[start:] + text * (longest // len(text)))[: source.randint(20, longest)]}

    rows = []
    for place in range(count):
        turns = [turn("system", 80)] if place % 7 == 0 else []
        for _ in range(place % 4):
            turns += [turn("human", 120), turn("gpt", 120)]
        turns.append(turn("human", 120))
        row: dict[str, Any] = {"conversations": turns, "chosen": turn("gpt", 400), "rejected": turn("gpt", 400)}
        while row["rejected"] == row["chosen"]:
            row["rejected"] = turn("gpt", 400)
        if place % 11 == 0:
            row["rejected"]["value"] += TEXTS[language] * 60
        rows.append(row)
    return rows
