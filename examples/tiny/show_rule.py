"""Plot what the rule of rewards.py says of the responses that an online run has sampled, which its reward never saw.

    python examples/tiny/show_rule.py RUN_FOLDER [--above 0.5]

With --above the exit code is 1 if the last samples score lower by the rule. The run needs log_samples_interval.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from rewards import vowels
from show_online import bars

SPECIAL = re.compile(r"<(pad|s|/s|\|user\||\|assistant\||\|end\|)>")


def rule_by_step(path: Path) -> dict[int, tuple[float, float]]:
    """Return for each step with samples the mean score by the reward, and by the rule."""
    by_step: dict[int, list[tuple[float, float]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        sample = json.loads(line)
        (by_rule,) = vowels([SPECIAL.sub("", sample["response"])])
        by_step.setdefault(sample["step"], []).append((sample["score"], by_rule))
    return {
        step: (sum(score for score, _ in rows) / len(rows), sum(rule for _, rule in rows) / len(rows))
        for step, rows in sorted(by_step.items())
    }


def main() -> int:
    """Print both curves; return 1 if --above is not reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of an online run, with samples.jsonl")
    parser.add_argument("--above", type=float, help="mean score by the rule that the last samples must reach")
    options = parser.parse_args()
    means = rule_by_step(options.run / "samples.jsonl")
    for column, name in enumerate(("score by the reward model", "score by the rule, the share of vowels")):
        values = [pair[column] for pair in means.values()]
        print(f"{name}, steps {min(means)} to {max(means)}\n  {values[0]:8.3f} {bars(values)} {values[-1]:.3f}")
    reached = means[max(means)][1]
    if options.above is not None and reached < options.above:
        print(f"the last samples score {reached:.3f} by the rule, not {options.above:g}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
