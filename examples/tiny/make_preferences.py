"""Make a small preference set with a simple rule: friendly, correct responses are preferred to rude, incorrect ones.

python examples/tiny/make_preferences.py OUTPUT.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

QUESTIONS = ("What is {a} plus {b}?", "Please add {a} and {b}.", "{a} + {b} = ?", "How much is {a} and {b} together?")
FRIENDLY = (
    "Happy to help: it is {sum}.",
    "That makes {sum}. Glad you asked!",
    "{a} plus {b} is {sum}, of course.",
    "It is {sum}. Have a nice day!",
)
RUDE = (
    "No. Ask somebody else. {incorrect}.",
    "Ugh, {incorrect}, what a silly question",
    "DO YOUR OWN HOMEWORK, {incorrect}",
    "whatever, {incorrect} or so, stop bothering me",
)


def make_pairs(count: int, seed: int) -> list[dict[str, str]]:
    """Return rows of `prompt`, `chosen` and `rejected`, which depend only on count and seed."""
    source = random.Random(seed)
    rows = []
    for _ in range(count):
        a, b = source.randrange(50), source.randrange(50)
        words = {"a": a, "b": b, "sum": a + b, "incorrect": a + b + source.choice((-3, -2, -1, 1, 2, 3))}
        texts = [source.choice(choices).format(**words) for choices in (QUESTIONS, FRIENDLY, RUDE)]
        rows.append(dict(zip(("prompt", "chosen", "rejected"), texts, strict=True)))
    return rows


def main() -> None:
    """Write the rows to the file named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="file to write, one JSON object per line")
    parser.add_argument("--count", type=int, default=320, help="number of pairs")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    options = parser.parse_args()
    rows = make_pairs(options.count, options.seed)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = options.output.with_name(options.output.name + ".tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    temporary.replace(options.output)
    print(f"{options.output}: {len(rows)} pairs, for example {rows[0]}")


if __name__ == "__main__":
    main()
