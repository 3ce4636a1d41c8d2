"""Show the first and last steps of a run's metrics.jsonl and check that the reward margin rose.

python examples/tiny/show_training.py RUN_FOLDER/metrics.jsonl
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

COLUMNS = ("loss", "rewards/margins", "rewards/accuracies")


def main() -> int:
    """Print the table; return 1 if the margin did not rise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("metrics", type=Path, help="metrics.jsonl of a run")
    path = parser.parse_args().metrics
    steps = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    print(f"{'step':>6}" + "".join(f"{name:>20}" for name in COLUMNS))
    for step in (steps[0], steps[len(steps) // 2], steps[-1]):
        print(f"{step['step']:>6}" + "".join(f"{step[name]:>20.4f}" for name in COLUMNS))
    first, last = steps[0]["rewards/margins"], steps[-1]["rewards/margins"]
    if last <= first:
        print(f"the reward margin did not rise: {first:.4f} at the start, {last:.4f} at the end", file=sys.stderr)
        return 1
    print(f"reward margin: {first:+.4f} -> {last:+.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
