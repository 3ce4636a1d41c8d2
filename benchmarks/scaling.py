"""Measure time and memory of a step against pairs, row length, responses per prompt and ranks.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --tables ranks --ranks 1 2 4
    python benchmarks/scaling.py --size tiny --pairs 2 4 --lengths 64 128

Each line of a table is a separate run, whose second step is measured. The rows are synthetic: each has about `length`
tokens, half of them in the prompt and a quarter in each response.

Tables: `pairs` and `lengths` are offline steps with a cached reference and one pair per micro-batch. `responses` is an
online step in which K responses of `length` / 4 tokens share a prompt; only the best and the worst are trained on.
`ranks` is an offline step of data-parallel processes with the same number of pairs each, so time and memory per rank
should be constant.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import Result, in_child, machine, peak_mib
from rich.console import Console
from rich.table import Table
from runs import offline_run, online_run
from workload import SIZES, prepare_pairs, prepare_prompts, synthetic_row

HERE = Path(__file__).resolve()
TEMPLATE = 64
"""Maximum number of tokens that the chat template adds to a prompt."""


def main() -> None:
    """Measure in child processes and print the tables; with --folder, make one measurement."""
    options = parse()
    torch.set_num_threads(1)
    if options.folder:
        print(json.dumps(MEASURES[options.tables[0]](options)))
        return
    for name in options.tables:
        print_table(name, [(line, measure_line(name, line, options)) for line in lines(name, options)], options)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--size", choices=SIZES, default="40m")
    parser.add_argument("--pairs", type=int, nargs="+", default=[2, 4, 8], help="pairs or prompts per step and rank")
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 512, 1024], help="tokens per row")
    parser.add_argument("--responses", type=int, nargs="+", default=[2, 4, 8], help="responses per prompt")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="data-parallel processes")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


Line = dict[str, int]


def lines(name: str, options: argparse.Namespace) -> list[Line]:
    """Return the lines of a table: one quantity varies, the others have their first value."""
    first = {key: getattr(options, key)[0] for key in ("pairs", "lengths", "responses", "ranks")}
    return [{**first, name: value} for value in getattr(options, name)]


def measure_line(name: str, line: Line, options: argparse.Namespace) -> Result:
    """Measure one line of a table in a child process."""
    size, length = SIZES[options.size], line["lengths"]
    longest = length + TEMPLATE
    rows = [synthetic_row(length // 2, length // 4, length // 4)] * line["pairs"] * line["ranks"]
    with tempfile.TemporaryDirectory() as folder:
        if name == "responses":
            prepare_prompts(Path(folder), rows, size, "float32", len(rows), longest, mean_response=0)
        else:
            prepare_pairs(Path(folder), rows, size, "float32", len(rows), longest)
        words = [word for key, value in line.items() for word in (f"--{key}", str(value))]
        return in_child(HERE, ["--folder", folder, "--size", options.size, "--tables", name, *words])


def offline_step(options: argparse.Namespace) -> Result:
    """Measure the second step of a data-parallel run; return the maximum time and memory of its processes."""
    from many_processes import ManyProcesses
    from one_process import offline

    (pairs,), (ranks,) = options.pairs, options.ranks
    keys: dict[str, Any] = {"micro_batch_size": 1, "reference": "cached"}
    loop = {"train_iters": 2, "global_batch_size": pairs * ranks}
    run = offline_run(options.folder, SIZES[options.size], keys, ranks, **loop)
    group = ManyProcesses(run, ranks)
    trainer, inputs = offline(run, group=group)
    trainer.step(0)
    before = group.used()
    trainer.step(1)
    after = group.used()
    cpu_s = max(now - start for (now, _), (start, _) in zip(after, before, strict=True))
    tokens = float(inputs.dataset.lengths().sum())
    return {"cpu_s": cpu_s, "tokens": tokens, "peak_mib": max(peak for _, peak in after)}


def online_step(options: argparse.Namespace) -> Result:
    """Measure the second step of an online run in this process."""
    from one_process import online

    (prompts,), (length,), (responses,) = options.pairs, options.lengths, options.responses
    keys: dict[str, Any] = {
        "micro_batch_size": 1, "max_prompt_length": length + TEMPLATE, "n_samples_per_prompt": responses,
        "rollout_slots": 16, "decode_rows": 16,
    }  # fmt: skip
    loop = {"train_iters": 2, "global_batch_size": prompts, "seq_length": length + TEMPLATE + length // 4}
    run = online_run(options.folder, SIZES[options.size], keys, "online_reward.vowels", **loop)
    trainer, process = online(run)
    trainer.step(0)
    process.spent.seconds.clear()
    metrics = trainer.step(1)
    spent = process.spent.seconds
    tokens = prompts * (metrics["prompt_length/mean"] + responses * metrics["response_length/mean"])
    return {
        "tokens": tokens, "peak_mib": peak_mib(), "generate": spent["Rollout.generate"],
        "reference": spent["Reference.log_probs"], "update": spent["Actor.update"],
    }  # fmt: skip


MEASURES: dict[str, Callable[[argparse.Namespace], Result]] = {
    "pairs": offline_step,
    "lengths": offline_step,
    "responses": online_step,
    "ranks": offline_step,
}
"""Functions that measure a line, by the quantity that varies."""


def print_table(name: str, results: list[tuple[Line, Result]], options: argparse.Namespace) -> None:
    """Print a line per value, with CPU seconds; `ranks` shows the maximum over the ranks."""
    phases = ("generate", "reference", "update") if name == "responses" else ("cpu_s",)
    table = Table(title=f"one step, varying {name}, {options.size}, float32, one thread per process")
    for column in ("pairs", "length", "responses", "ranks", "tokens"):
        table.add_column(column, justify="right")
    for phase in phases:
        table.add_column("CPU s" if phase == "cpu_s" else f"{phase} CPU s", justify="right")
    table.add_column("ms per token of a rank", justify="right")
    table.add_column("peak MiB", justify="right")
    for line, result in results:
        seconds = [result[phase] for phase in phases]
        each = 1000 * sum(seconds) * line["ranks"] / result["tokens"]
        table.add_row(*map(str, line.values()), f"{result['tokens']:.0f}", *(f"{spent:.2f}" for spent in seconds),
                      f"{each:.2f}", f"{result['peak_mib']:.0f}")  # fmt: skip
    table.caption = machine()
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
