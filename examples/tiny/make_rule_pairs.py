"""Make preference pairs by the rule of rewards.py: of two random responses, the one with more vowels is chosen.

python examples/tiny/make_rule_pairs.py OUTPUT.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
import string
from pathlib import Path

from make_prompts import make_prompts
from rewards import FULL_LENGTH, VOWELS, vowels

OTHERS = sorted(set(string.printable[:95]) - VOWELS) + [chr(code) for code in range(0x80, 0x800, 7)]
"""Characters without vowels: printable ASCII, and characters of two bytes, as a model of bytes may begin with."""
MIN_DIFFERENCE = 0.15
MAX_LENGTH = 3 * FULL_LENGTH


def random_response(source: random.Random) -> str:
    """Return random characters with a random share of vowels; a third of the responses are short."""
    share, is_short = source.random(), source.random() < 1 / 3
    length = source.randint(1, FULL_LENGTH) if is_short else source.randint(FULL_LENGTH, MAX_LENGTH)
    letters = sorted(VOWELS)
    return "".join(source.choice(letters if source.random() < share else OTHERS) for _ in range(length))


def make_pairs(count: int, seed: int) -> list[dict[str, str]]:
    """Return rows of `prompt`, `chosen` and `rejected`, which depend only on count and seed."""
    source = random.Random(seed)
    prompts = [row["prompt"] for row in make_prompts(320, seed)]
    rows: list[dict[str, str]] = []
    while len(rows) < count:
        responses = [random_response(source) for _ in range(2)]
        scores = vowels(responses)
        if abs(scores[0] - scores[1]) >= MIN_DIFFERENCE:
            chosen, rejected = responses if scores[0] > scores[1] else responses[::-1]
            rows.append({"prompt": source.choice(prompts), "chosen": chosen, "rejected": rejected})
    return rows


def main() -> None:
    """Write the rows to the file named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="file to write, one JSON object per line")
    parser.add_argument("--count", type=int, default=3000, help="number of pairs")
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
