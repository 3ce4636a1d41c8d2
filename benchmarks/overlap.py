"""Measure an online step with rollout prefetch and with asynchronous checkpoints.

    python benchmarks/overlap.py
    python benchmarks/overlap.py --size tiny --steps 3 --batch 2 --max-new 8 --sides ahead

Rollout and policy each have a process with one thread, placed by Ray as in a run of `ray_gpt.py`; a checkpoint is
written every second step. Two unused cores thus behave like two devices and show how long one waits for the other.
Prompts and reward are those of `online.py`. The first step, which has no prefetched rollouts, and the last, which
prefetches none, are not counted.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import Result, in_child, machine, median
from online import REWARD, synthetic_rows, words
from rich.console import Console
from rich.table import Table
from runs import online_run
from workload import SIZES, prepare_prompts

HERE = Path(__file__).resolve()
SIDES: dict[str, dict[str, Any]] = {
    "in-turn": {},
    "ahead": {"rollout_staleness": 1},
    "ahead-async-save": {"rollout_staleness": 1, "async_save": True},
}
SAVE_INTERVAL = 2
PHASES = ("timing/gen", "timing/adv", "timing/update_actor", "timing/sync")


class Times:
    """A tracker that records the time and the metrics of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.metrics: list[dict[str, float]] = []

    def log(self, _step: int, metrics: dict[str, float]) -> None:
        self.seconds.append(time.perf_counter())
        self.metrics.append(metrics)

    def close(self) -> None:
        return


def main() -> None:
    """Measure in child processes and print the table; with --child, make one measurement."""
    options = parse()
    if options.child:
        print(json.dumps(measure(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        prepare_prompts(
            Path(folder),
            synthetic_rows(),
            SIZES[options.size],
            "float32",
            options.batch * options.steps,
            288,
            mean_response=32,
        )
        given = {**vars(options), "folder": folder}
        common = words(given, "folder", "size", "steps", "batch", "max_new")
        rounds = [
            {side: in_child(HERE, ["--child", side, *common], {"OMP_NUM_THREADS": "1"}) for side in options.sides}
            for _ in range(options.rounds)
        ]
    report(rounds, options)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="40m")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8, help="prompts per step")
    parser.add_argument("--max-new", type=int, default=96, help="maximum tokens of a response")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each side, alternating")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps < 3:
        parser.error(f"--steps {options.steps}: the first and the last step are not counted, so at least 3 are needed")
    return options


def measure(options: argparse.Namespace) -> Result:
    """Return the wall seconds of a step, checkpoints included, and of its phases."""
    keys = {
        "micro_batch_size": 4, "max_prompt_length": 288, "rollout_slots": 16, "decode_rows": 16,
        "num_gpus_for_infer": 1, **SIDES[options.child],
    }  # fmt: skip
    loop = {
        "train_iters": options.steps, "global_batch_size": options.batch, "seq_length": 288 + options.max_new,
        "save_interval": SAVE_INTERVAL, "output_dir": tempfile.mkdtemp(dir=options.folder),
    }  # fmt: skip
    times = fitted(online_run(options.folder, SIZES[options.size], keys, REWARD, processes=2, **loop))
    counted = times.metrics[1:-1]
    phases = {name: sum(one.get(name, 0.0) for one in counted) / len(counted) for name in PHASES}
    return {"step_s": (times.seconds[-2] - times.seconds[0]) / len(counted), **phases}


def fitted(run: Any) -> Times:
    """Train on processes placed by Ray, and return the times of the steps."""
    from mindspeed_dpo.controller.launch import worker_groups
    from mindspeed_dpo.trainers.build_online import online_trainer
    from mindspeed_dpo.trainers.run_inputs import open_inputs

    inputs, times = open_inputs(run), Times()
    with worker_groups(inputs.config) as groups:
        online_trainer(inputs, groups)(tracker=times).fit()
    return times


def report(rounds: list[dict[str, Result]], options: argparse.Namespace) -> None:
    """Print the medians of every side and its speed-up over the first."""
    table = Table(title=f"online DPO, {options.size}, rollout and policy in separate processes, one thread each")
    for column in ("", "s per step", "speed-up", *(name.removeprefix("timing/") for name in PHASES)):
        table.add_column(column, justify="right" if column else "left")
    first = next(iter(rounds[0]))
    for side in rounds[0]:
        seconds = [median([one[side][key] for one in rounds]) for key in ("step_s", *PHASES)]
        gain = median([one[first]["step_s"] / one[side]["step_s"] for one in rounds])
        table.add_row(side, f"{seconds[0]:.2f}", f"{gain:.2f}x", *(f"{phase:.2f}" for phase in seconds[1:]))
    table.caption = (
        f"{options.rounds} round(s) of {options.steps} steps of {options.batch} prompts, two responses each, "
        f"a checkpoint every {SAVE_INTERVAL} steps; {machine()}"
    )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
