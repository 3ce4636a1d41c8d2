"""Compare an offline step with the GEMM peak of the processor, with a breakdown by phase.

    python benchmarks/limit.py --data dpo_en_demo.json
    python benchmarks/limit.py --data dpo_en_demo.json --size 174m --dtype bfloat16

One step of the trainer with a cached reference runs under torch's profiler on one thread. Products are counted with the
FLOPs that they execute, recomputed logits included; the minimum GFLOP count is that of `offline.py`. The time of the
step is measured without the profiler, which has overhead.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from measuring import Clock, gemm_peak, machine
from rich.console import Console
from rich.table import Table
from runs import offline_run
from workload import SIZES, prepare

STEPS = 3
"""Number of measured steps; the fastest is reported."""
# An operator is counted under the first phase that has a part of its name.
PHASES = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::_scaled_mm"),
    "attention": ("attention",),
    "exponentials, logarithms": ("aten::exp", "aten::log", "aten::sigmoid", "aten::silu", "aten::rsqrt", "aten::pow"),
    "reductions": ("aten::sum", "aten::mean", "aten::amax", "aten::norm", "aten::linalg"),
    "copies, casts, zeros": ("aten::copy_", "aten::cat", "aten::fill_", "aten::zero_", "aten::index", "aten::gather"),
    "arithmetic": ("aten::mul", "aten::add", "aten::sub", "aten::neg", "aten::div", "aten::sqrt"),
}


def main() -> None:
    """Run, profile and print the breakdown."""
    options = parse()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), options.data, SIZES[options.size], options.dtype, options.pairs)
        measure(Path(folder), options)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="pairs in ShareGPT format, such as dpo_en_demo.json")
    parser.add_argument("--size", choices=SIZES, default="40m")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--pairs", type=int, default=8, help="pairs per step")
    parser.add_argument("--micro-batch", type=int, default=2)
    return parser.parse_args()


def measure(folder: Path, options: argparse.Namespace) -> None:
    from one_process import offline

    size, dtype = SIZES[options.size], getattr(torch, options.dtype)
    pairs = len(json.loads((folder / "raw.json").read_text(encoding="utf-8")))
    keys: dict[str, Any] = {"micro_batch_size": options.micro_batch, "reference": "cached"}
    loop = {"train_iters": STEPS + 2, "global_batch_size": pairs, "bf16": dtype == torch.bfloat16}
    trainer, inputs = offline(offline_run(folder, size, keys, **loop))
    trainer.step(0)
    seconds = min(seconds_of(trainer, number) for number in range(1, STEPS + 1))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], with_flops=True) as profile:
        trainer.step(STEPS + 1)
    events = profile.key_averages()
    minimum = size.gflop_of_pairs(inputs.dataset.lengths(), passes=3)
    # The profiler reports FLOPs for some products only; the rate covers those.
    counted = [event for event in events if is_product(event.key) and event.flops]
    executed = sum(event.flops for event in counted) / 1e9, sum(event.self_cpu_time_total for event in counted) / 1e6
    peak = gemm_peak(dtype, *((1536, 5) if dtype == torch.float32 else (512, 2)))
    print_table(by_phase(events), seconds, minimum, executed, peak, options)


def seconds_of(trainer: Any, step: int) -> float:
    """Return the CPU seconds of one step."""
    clock = Clock()
    trainer.step(step)
    return clock.read()["cpu_s"]


def is_product(name: str) -> bool:
    return name in PHASES["matrix products"]


def by_phase(events: Any) -> dict[str, float]:
    """Return the CPU seconds of the operators of each phase, without those of nested operators."""
    seconds: dict[str, float] = defaultdict(float)
    for event in events:
        name = event.key
        phase = next((phase for phase, words in PHASES.items() if any(word in name for word in words)), "other")
        seconds[phase] += event.self_cpu_time_total / 1e6
    return dict(seconds)


def print_table(
    phases: dict[str, float],
    seconds: float,
    minimum: float,
    executed: tuple[float, float],
    peak: float,
    options: argparse.Namespace,
) -> None:
    total = sum(phases.values())
    table = Table(title=f"one step, {options.size}, {options.dtype}, reference cached, one thread")
    for column in ("phase", "s", "share"):
        table.add_column(column, justify="right" if column != "phase" else "left")
    for phase, spent in sorted(phases.items(), key=lambda item: -item[1]):
        table.add_row(phase, f"{spent:.2f}", f"{spent / total:.0%}")
    console = Console(width=120)
    console.print(table)
    console.print(
        f"GEMM peak {peak:.1f} GFLOP/CPU-s; the step: minimum {minimum:.0f} GFLOP in {seconds:.1f} CPU-s, "
        f"{minimum / seconds:.1f} GFLOP/CPU-s, {minimum / seconds / peak:.0%} of the peak"
    )
    gflop, spent = executed
    if spent:
        console.print(
            f"products counted by the profiler, without attention: {gflop:.0f} GFLOP at {gflop / spent:.1f} GFLOP/s, "
            f"{gflop / spent / peak:.0%} of the peak"
        )
    console.print(machine())


if __name__ == "__main__":
    main()
