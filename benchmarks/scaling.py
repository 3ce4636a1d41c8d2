"""How seconds and memory of an offline step grow with the pairs of a step and with the length of rows.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --size tiny --pairs 2 4 --lengths 64 128

Every measurement is a process of its own, with a cached reference and one pair a pass. The rows are made: each has
about `length` tokens, half of them the prompt and a quarter each answer. More than two answers a prompt and more than
one rank are not measured here.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from measuring import Clock, Result, in_child, machine, peak_mib
from rich.console import Console
from rich.table import Table
from workload import SIZES, configuration, prepare


def main() -> None:
    """Measure in child processes and print the table, or be such a child."""
    options = parse()
    torch.set_num_threads(1)
    if options.folder:
        print(json.dumps(measure(options)))
        return
    table = Table(title=f"one offline step, {options.size}, float32, one thread")
    for column in ("pairs", "length", "tokens", "CPU s", "CPU ms a token", "peak MiB"):
        table.add_column(column, justify="right")
    grid = [(pairs, options.lengths[0]) for pairs in options.pairs]
    grid += [(options.pairs[0], length) for length in options.lengths[1:]]
    for pairs, length in grid:
        found = ask(pairs, length, options)
        table.add_row(str(pairs), str(length), f"{found['tokens']:.0f}", f"{found['cpu_s']:.2f}",
                      f"{1000 * found['cpu_s'] / found['tokens']:.2f}", f"{found['peak_mib']:.0f}")  # fmt: skip
    table.caption = machine()
    Console(width=120).print(table)


def parse() -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="40m")
    parser.add_argument("--pairs", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def ask(pairs: int, length: int, options: argparse.Namespace) -> Result:
    """A step over pairs of one length, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "made.json"
        data.write_text(json.dumps([row(length)] * pairs), encoding="utf-8")
        prepare(Path(folder), data, SIZES[options.size], "float32", pairs)
        return in_child(Path(__file__).resolve(), ["--folder", folder, "--size", options.size, "--pairs", str(pairs)])


def row(length: int) -> dict[str, Any]:
    """A pair in ShareGPT's form; a repeated word is one token each time."""
    asked, chosen, rejected = (" ".join([word] * count) for word, count in
                               (("what", length // 2), ("yes", length // 4), ("no", length // 4)))  # fmt: skip
    return {
        "conversations": [{"from": "human", "value": asked}],
        "chosen": {"from": "gpt", "value": chosen},
        "rejected": {"from": "gpt", "value": rejected},
    }


def measure(options: argparse.Namespace) -> Result:
    """The second step of a run."""
    from one_process import offline

    (pairs,) = options.pairs
    keys: dict[str, Any] = {"micro_batch_size": 1, "reference": "cached"}
    run = configuration(options.folder, SIZES[options.size], keys, train_iters=2, global_batch_size=pairs)
    trainer, inputs = offline(run)
    trainer.step(0)
    clock = Clock()
    trainer.step(1)
    return {**clock.read(), "tokens": float(inputs.dataset.lengths().sum()), "peak_mib": peak_mib()}


if __name__ == "__main__":
    main()
