"""Runs every recorded case under every layout with mindspeed_dpo and writes the errors into docs/numerics.md.

    make numerics
    python -m tests.recordings.matrix [--cases sigmoid,ipo] [--layouts TP1,PP2] [--results FILE]

Takes about a quarter of an hour on two cores. With `--results` finished runs are stored in a file and not run again.
The document is written only where nothing was left out. Exits with 1 where a run is further from its recording than
`distances` allows.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

# Before torch is imported: several processes with many threads each would fight for the same cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from tests.recordings.cases import CASES
from tests.recordings.distances import UPDATE, Distances, misses, of_steps, of_update
from tests.recordings.error_tables import write_tables
from tests.recordings.files import in_float64, initial_weights, recording
from tests.recordings.training import replay_case
from tests.support.recorded_layouts import EXPERT_LAYOUTS, LAYOUTS, layouts_of, run_of
from tests.support.recorded_runs import as_logged_by_trl, compared_values, from_recording, weights_of
from tests.support.runs import train

Errors = dict[str, Distances]
"""Of one run: under `recording` and `float64` how far it is from either."""


def errors(case: str, layout: str) -> Errors:
    """Train a case under a layout and measure the result."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        metrics = train(run_of(case, layout, folder))
        final = weights_of(folder / "checkpoints")
    exact = replay_case(case, torch.float64)
    from_exact = of_steps(as_logged_by_trl(metrics, recording(case)), exact.steps, compared_values(recording(case)))
    from_exact["run"][UPDATE] = of_update(final, exact.final, initial_weights(recording(case)))
    return {"recording": from_recording(case, metrics, final), "float64": from_exact}


def all_errors(cases: list[str], layouts: list[str], results_file: Path | None) -> dict[str, dict[str, Errors]]:
    """By case and layout; prints a line for every run."""
    lines = results_file.read_text().splitlines() if results_file is not None and results_file.exists() else []
    done: dict[tuple[str, str], Errors] = {
        (one["case"], one["layout"]): one["errors"] for one in map(json.loads, lines)
    }
    actual: dict[str, dict[str, Errors]] = {}
    for case in cases:
        for layout in filter(layouts_of(case).__contains__, layouts):
            one = done.get((case, layout)) or errors(case, layout)
            if results_file is not None and (case, layout) not in done:
                with results_file.open("a") as file:
                    file.write(json.dumps({"case": case, "layout": layout, "errors": one}) + "\n")
            actual.setdefault(case, {})[layout] = one
            print(_line(case, layout, one), flush=True)
    return actual


def _line(case: str, layout: str, one: Errors) -> str:
    worst = {name: max(tiers["run"].values()) for name, tiers in one.items()}
    missed = misses(one["recording"], in_float64(case)["distance"])
    text = f"from the recording {worst['recording']:.1e}, from float64 {worst['float64']:.1e}"
    return f"{case:23} {layout:9} {text} {'; '.join(missed)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated (default: all)")
    parser.add_argument("--layouts", default=",".join(LAYOUTS | EXPERT_LAYOUTS), help="comma-separated (default: all)")
    parser.add_argument("--results", type=Path, help="file of finished runs, read and appended to")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    actual = all_errors(arguments.cases.split(","), arguments.layouts.split(","), arguments.results)
    missed = [
        f"{case} {layout}: {text}"
        for case, layouts in actual.items()
        for layout, one in layouts.items()
        for text in misses(one["recording"], in_float64(case)["distance"])
    ]
    if set(actual) == set(CASES) and all(set(layouts) == set(layouts_of(case)) for case, layouts in actual.items()):
        write_tables(actual)
    print("\n".join([*missed, f"{sum(map(len, actual.values()))} runs, {len(missed)} figures further than allowed"]))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
