"""How seconds and memory of a step grow with pairs, with the length of rows, with answers to a prompt and with ranks.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --tables ranks --ranks 1 2 4
    python benchmarks/scaling.py --size tiny --pairs 2 4 --lengths 64 128

Every line is a run of its own, of which the second step is measured. The rows are made: each has about `length` tokens,
half of them the prompt and a quarter each answer.

Tables: `pairs` and `lengths` are offline steps with a cached reference and one pair a pass. `answers` is an online step
in which K answers of `length` / 4 tokens share a prompt; only the best and the worst are learned from. `ranks` is an
offline step of data-parallel processes with the same pairs each, so that a rank's seconds and memory should stay.
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
from workload import SIZES, made_row, prepare_pairs, prepare_prompts

HERE = Path(__file__).resolve()
TEMPLATE = 64
"""Tokens of a prompt besides its own, at most."""


def main() -> None:
    """Measure in child processes and print the tables, or be such a child."""
    options = parse()
    torch.set_num_threads(1)
    if options.folder:
        print(json.dumps(MEASURES[options.tables[0]](options)))
        return
    for name in options.tables:
        print_table(name, [(line, ask(name, line, options)) for line in lines(name, options)], options)


def parse() -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--size", choices=SIZES, default="40m")
    parser.add_argument("--pairs", type=int, nargs="+", default=[2, 4, 8], help="pairs or prompts of a rank's step")
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 512, 1024], help="tokens of a row")
    parser.add_argument("--answers", type=int, nargs="+", default=[2, 4, 8], help="answers to a prompt")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="data-parallel processes")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


Line = dict[str, int]


def lines(name: str, options: argparse.Namespace) -> list[Line]:
    """What grows in a table; everything else stays at its first value."""
    first = {key: getattr(options, key)[0] for key in ("pairs", "lengths", "answers", "ranks")}
    return [{**first, name: value} for value in getattr(options, name)]


def ask(name: str, line: Line, options: argparse.Namespace) -> Result:
    """One line of a table, measured in a process of its own."""
    size, length = SIZES[options.size], line["lengths"]
    longest = length + TEMPLATE
    rows = [made_row(length // 2, length // 4, length // 4)] * line["pairs"] * line["ranks"]
    with tempfile.TemporaryDirectory() as folder:
        if name == "answers":
            prepare_prompts(Path(folder), rows, size, "float32", len(rows), longest, answer=0)
        else:
            prepare_pairs(Path(folder), rows, size, "float32", len(rows), longest)
        words = [word for key, value in line.items() for word in (f"--{key}", str(value))]
        return in_child(HERE, ["--folder", folder, "--size", options.size, "--tables", name, *words])


def offline_step(options: argparse.Namespace) -> Result:
    """The second step of a run whose processes share the pairs; seconds and memory of the process that needs most."""
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
    """The second step of an online run in this process."""
    from one_process import online

    (prompts,), (length,), (answers,) = options.pairs, options.lengths, options.answers
    keys: dict[str, Any] = {
        "micro_batch_size": 1, "max_prompt_length": length + TEMPLATE, "n_samples_per_prompt": answers,
        "rollout_slots": 16, "decode_rows": 16,
    }  # fmt: skip
    loop = {"train_iters": 2, "global_batch_size": prompts, "seq_length": length + TEMPLATE + length // 4}
    run = online_run(options.folder, SIZES[options.size], keys, "online_reward.vowels", **loop)
    trainer, process = online(run)
    trainer.step(0)
    process.spent.seconds.clear()
    found = trainer.step(1)
    spent = process.spent.seconds
    tokens = prompts * (found["prompt_length/mean"] + answers * found["response_length/mean"])
    return {
        "tokens": tokens, "peak_mib": peak_mib(), "generate": spent["Rollout.generate"],
        "reference": spent["Reference.log_probs"], "update": spent["Actor.update"],
    }  # fmt: skip


MEASURES: dict[str, Callable[[argparse.Namespace], Result]] = {
    "pairs": offline_step,
    "lengths": offline_step,
    "answers": online_step,
    "ranks": offline_step,
}
"""What grows -> how a line is measured."""


def print_table(name: str, found: list[tuple[Line, Result]], options: argparse.Namespace) -> None:
    """A line for each value; seconds are those of CPU, `ranks` says those and the memory of the rank with most."""
    phases = ("generate", "reference", "update") if name == "answers" else ("cpu_s",)
    table = Table(title=f"a step as {name} grow, {options.size}, float32, one thread a process")
    for column in ("pairs", "length", "answers", "ranks", "tokens"):
        table.add_column(column, justify="right")
    for phase in phases:
        table.add_column("CPU s" if phase == "cpu_s" else f"{phase} CPU s", justify="right")
    table.add_column("ms a token of a rank", justify="right")
    table.add_column("peak MiB", justify="right")
    for line, result in found:
        seconds = [result[phase] for phase in phases]
        each = 1000 * sum(seconds) * line["ranks"] / result["tokens"]
        table.add_row(*map(str, line.values()), f"{result['tokens']:.0f}", *(f"{spent:.2f}" for spent in seconds),
                      f"{each:.2f}", f"{result['peak_mib']:.0f}")  # fmt: skip
    table.caption = machine()
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
