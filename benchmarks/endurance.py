"""Check that memory does not grow in a long run: thousands of steps of a tiny model.

    python benchmarks/endurance.py                             # 10 000 offline steps, about 5 minutes
    python benchmarks/endurance.py --stage online --steps 10000

Runs the trainer's own loop with its worker in one process and the trackers of every run; the process of a reward
function is included. Rows have many lengths and are shuffled, so that steps differ. The slope excludes the first part
of the run, in which libraries and the allocator warm up. The exit code is 1 if memory grows faster than the bound.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from measuring import machine
from rich.console import Console
from rich.table import Table
from runs import offline_run, online_run
from workload import Size, prepare_pairs, prepare_prompts, synthetic_row

from mindspeed_dpo.observability.metrics_jsonl import MetricsFile
from mindspeed_dpo.observability.tensorboard import TensorBoard

TINY = Size(32, 1, 2, 1, 64, 512)
PAIRS, LONGEST, MEAN_RESPONSE = 2, 64, 4


class Samples:
    """A tracker that samples resident memory in MiB at intervals and forwards metrics to other trackers."""

    def __init__(self, others: list[Any], interval: int) -> None:
        self._others, self._interval = others, interval
        self.steps: list[int] = []
        self.resident: list[float] = []
        self._start = time.perf_counter()
        self.seconds = 0.0

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for other in self._others:
            other.log(step, metrics)
        if step % self._interval == 0:
            self.steps.append(step)
            self.resident.append(resident_mib())
            self.seconds = time.perf_counter() - self._start

    def close(self) -> None:
        for other in self._others:
            other.close()


def main() -> None:
    """Run, and print memory over time and its slope."""
    options = parse()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        samples = run(Path(folder), options)
    late = [place for place, step in enumerate(samples.steps) if step > options.settle * options.steps]
    steps, resident = (np.array([values[place] for place in late]) for values in (samples.steps, samples.resident))
    slope = 10_000 * float(np.polyfit(steps, resident, 1)[0])
    console = Console(width=120)
    print_table(console, samples, options)
    console.print(
        f"from step {steps[0]} on: {slope:+.2f} MiB per 10 000 steps (bound {options.bound:g}), "
        f"{resident.max() - resident.min():.2f} MiB between minimum and maximum"
    )
    if slope > options.bound:
        raise SystemExit(f"memory grows by {slope:.2f} MiB per 10 000 steps")


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", choices=("offline", "online"), default="offline")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--settle", type=float, default=0.3, help="share of the steps that the slope excludes")
    parser.add_argument("--bound", type=float, default=4.0, help="MiB per 10 000 steps")
    return parser.parse_args()


def run(folder: Path, options: argparse.Namespace) -> Samples:
    """Run all steps, including the final checkpoint."""
    from one_process import offline, online

    keys: dict[str, Any] = {"micro_batch_size": PAIRS, "no_shuffle": False, "lr": 1e-4}
    loop = {"train_iters": options.steps, "global_batch_size": PAIRS, "seq_length": 2 * LONGEST}
    others = [MetricsFile(folder / "metrics.jsonl"), TensorBoard(folder / "tensorboard")]
    samples = Samples(others, max(1, options.steps // 100))
    if options.stage == "offline":
        prepare_pairs(folder, rows(), TINY, "float32", len(rows()), LONGEST)
        trainer: Any = offline(offline_run(folder, TINY, {**keys, "reference": "live"}, **loop), samples)[0]
    else:
        prepare_prompts(folder, rows(), TINY, "float32", len(rows()), LONGEST, MEAN_RESPONSE)
        loop["seq_length"] = LONGEST + 4 * MEAN_RESPONSE
        online_keys = {**keys, "max_prompt_length": LONGEST, "decode_rows": 4, "rollout_slots": 4}
        trainer = online(online_run(folder, TINY, online_keys, "online_reward.vowels", **loop), samples)[0]
    trainer.fit()
    samples.close()
    return samples


def rows() -> list[dict[str, Any]]:
    """Return short pairs of many lengths."""
    dice = random.Random(0)
    return [synthetic_row(*(dice.randint(2, LONGEST // 4) for _ in range(3))) for _ in range(200)]


def resident_mib() -> float:
    """Return the resident memory of this process and its children, in MiB, without mapped files."""
    me = psutil.Process()
    used = (process.memory_info() for process in (me, *me.children(recursive=True)))
    return sum(info.rss - info.shared for info in used) / 1024**2


def print_table(console: Console, samples: Samples, options: argparse.Namespace) -> None:
    table = Table(
        title=f"{options.steps} {options.stage} steps, {1000 * samples.seconds / samples.steps[-1]:.1f} ms each"
    )
    for column in ("steps", "minimum MiB", "maximum MiB"):
        table.add_column(column, justify="right")
    tenth = max(1, len(samples.steps) // 10)
    for start in range(0, len(samples.steps), tenth):
        steps, resident = samples.steps[start : start + tenth], samples.resident[start : start + tenth]
        table.add_row(f"{steps[0]} to {steps[-1]}", f"{min(resident):.2f}", f"{max(resident):.2f}")
    console.print(table)
    console.print(machine())


if __name__ == "__main__":
    main()
