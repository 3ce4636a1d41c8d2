"""Kills random processes of runs at random moments, resumes them, and compares the results with uninterrupted runs.

python -m tests.chaos [--kills 100] [--seed 1] [--folder outputs/chaos] [--minutes 60]

The folder holds inputs, uninterrupted runs and the list of kills, so that an interrupted series goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.chaos.series import COMPLETED, Kill, Series


def main() -> int:
    """Run the series and print each kill and a table; the exit code is 1 if something was not as promised."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="number of kills of the series")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no further command after this time")
    parser.add_argument("--seed", type=int, default=1, help="seed of victims, moments and configurations")
    parser.add_argument("--folder", type=Path, default=Path("outputs/chaos"), help="folder of the series")
    options = parser.parse_args()
    # As Ctrl-C does, so that the run of the moment ends with the series.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    end_s = time.monotonic() + 60 * options.minutes
    _print(f"seed {options.seed}, folder {options.folder}")
    series = Series(options.folder, options.seed)
    while series.num_kills < options.kills and time.monotonic() < end_s:
        _report(series, series.kill_once)
    for name in series.unfinished():
        if time.monotonic() < end_s:
            _report(series, lambda name=name: series.complete(name))
    _print("\n".join(table(series.commands)))
    if unfinished := series.unfinished():
        _print(f"not compared yet: {', '.join(unfinished)}; the same command goes on")
    return 1 if any(one.problem for one in series.commands) else 0


def _report(series: Series, strike: Callable[[], Kill]) -> None:
    begin_s = time.monotonic()
    kill = strike()
    _print(
        f"{len(series.commands)}: {kill.configuration}, {kill.victim}, {kill.moment}: exit code {kill.code} after "
        f"{kill.end_s:.1f} s, step {kill.saved} saved{', compared' if kill.compared else ''} "
        f"({time.monotonic() - begin_s:.0f} s) {kill.problem or 'ok'}"
    )


def table(commands: Sequence[Kill]) -> list[str]:
    """Lines of a table of victims: number of kills, of problems, and the longest time to the end of the command."""
    lines = [f"{'victim':32} {'kills':>6} {'problems':>9} {'longest end':>12}"]
    for victim in sorted({one.victim for one in commands} - {COMPLETED}):
        kills = [one for one in commands if one.victim == victim]
        lines.append(_row(victim, kills))
    lines.append(_row("all", [one for one in commands if one.victim != COMPLETED]))
    compared = [one for one in commands if one.compared]
    equal = sum(not one.problem for one in compared)
    return [*lines, f"{len(compared)} runs completed after kills and compared, {equal} equal bit by bit"]


def _row(name: str, kills: Sequence[Kill]) -> str:
    longest_s = max((one.end_s for one in kills), default=0.0)
    return f"{name:32} {len(kills):>6} {sum(bool(one.problem) for one in kills):>9} {longest_s:>10.1f} s"


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
