"""Make a small prompt set for online DPO: short requests, each with its topic as a further column.

python examples/tiny/make_prompts.py OUTPUT.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

REQUESTS = ("Sing of {topic}.", "Tell me of {topic}.", "A word on {topic}?", "Praise {topic}!", "Call {topic}.")
QUALITIES = ("old", "new", "big", "wet", "warm", "grey", "fast", "calm")
TOPICS = ("rain", "sea", "tree", "bread", "moon", "dog", "ship", "snow", "wind", "road")


def make_prompts(count: int, seed: int) -> list[dict[str, str]]:
    """Return distinct rows of `prompt` and `topic`, which depend only on count and seed.

    Raises:
        ValueError: There are fewer than `count` different prompts.
    """
    possible = [
        {"prompt": request.format(topic=f"the {quality} {topic}"), "topic": topic}
        for request in REQUESTS
        for topic in TOPICS
        for quality in QUALITIES
    ]
    if count > len(possible):
        raise ValueError(f"--count {count}: there are only {len(possible)} different prompts")
    return random.Random(seed).sample(possible, count)


def main() -> None:
    """Write the rows to the file named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="file to write, one JSON object per line")
    parser.add_argument("--count", type=int, default=320, help="number of prompts")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    options = parser.parse_args()
    try:
        rows = make_prompts(options.count, options.seed)
    except ValueError as error:
        parser.error(str(error))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = options.output.with_name(options.output.name + ".tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    temporary.replace(options.output)
    print(f"{options.output}: {len(rows)} prompts, for example {rows[0]}")


if __name__ == "__main__":
    main()
