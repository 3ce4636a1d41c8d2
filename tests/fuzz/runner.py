"""Reads mutations of every kind of file and prints a table: python -m tests.fuzz.runner --help.

A mutation is determined by the name of its target and its number. What is read with neither result is saved as a file.
With `--resume` a run goes on after the last mutations that the state file names.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.child_processes import Outcome, run_target
from tests.fuzz.seeds import write_seeds
from tests.fuzz.targets import TARGETS, Target

BLOCK = 500
"""Mutations between two lines of progress."""
SAVED_PER_FAULT = 3


def main() -> int:
    """Run the command line."""
    options = _options()
    options.output.mkdir(parents=True, exist_ok=True)
    state = options.output / "state.json"
    done = json.loads(state.read_text()) if options.resume and state.is_file() else {}
    outcomes: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = write_seeds(Path(folder))
        for target in _selected(options.only):
            target.read(root)  # The seed is valid, and what it imports is imported once for all children.
            stop = options.first + max(1, round(options.count * target.share))
            outcome = outcomes[target.name] = Outcome()
            for start in range(max(options.first, done.get(target.name, 0)), stop, BLOCK):
                numbers = range(start, min(start + BLOCK, stop))
                block = run_target(target, root, numbers, verbose=options.verbose)
                _save_inputs(target, root, block, options.output)
                outcome.merge(block)
                done[target.name] = numbers.stop
                state.write_text(json.dumps(done))
                print(f"{time.strftime('%H:%M:%S')} {target.name}: {numbers.stop} of {stop}", flush=True)
    _print_table(outcomes)
    return 1 if any(outcome.faults for outcome in outcomes.values()) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.fuzz", description="Read mutated files of every kind.")
    parser.add_argument("--count", type=int, default=20_000, help="mutations of each target; slow targets read a share")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--only", default="", help="targets whose names contain one of these, separated by commas")
    parser.add_argument("--verbose", action="store_true", help="print the traceback of every fault")
    parser.add_argument("--resume", action="store_true", help="go on where the state in the output folder ends")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/fuzz"), help="folder of the state and of inputs with faults"
    )
    return parser.parse_args()


def _selected(only: str) -> list[Target]:
    return [target for target in TARGETS if any(part in target.name for part in only.split(","))]


def _save_inputs(target: Target, root: Path, outcome: Outcome, folder: Path) -> None:
    """Write the first inputs of every fault, and print how to read one again."""
    original = (root / target.file).read_bytes()
    for fault, numbers in outcome.faults.items():
        for number in numbers[:SAVED_PER_FAULT]:
            path = folder / f"{target.name}-{number}{Path(target.file).suffix}"
            path.write_bytes(target.mutated(original, number))
            print(f"{path}: {fault}; {target.command(number)}", flush=True)


def _print_table(outcomes: dict[str, Outcome]) -> None:
    print(f"{'target':26} {'count':>7} {'own errors':>10} {'accepted':>8} {'faults':>6} {'worst s':>7} {'peak MiB':>8}")
    for name, outcome in outcomes.items():
        num_faults = sum(map(len, outcome.faults.values()))
        count = outcome.num_refused + outcome.num_read + num_faults
        print(
            f"{name:26} {count:7} {outcome.num_refused:10} {outcome.num_read:8} {num_faults:6} "
            f"{outcome.worst_s:7.2f} {outcome.peak_bytes / (1 << 20):8.1f}"
        )


if __name__ == "__main__":
    sys.exit(main())
