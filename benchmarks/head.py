"""Compare the fused log-probability head with logits and log_softmax: CPU time and peak memory.

    python benchmarks/head.py
    python benchmarks/head.py --vocab 152064 --rows 512 2048 --dtype bfloat16

Each measurement is a forward and backward pass in its own process. Memory is the increase over the level before the
call. For the fused head it grows with rows only by the hidden states and their gradient; for the plain head it is
proportional to rows x vocabulary.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from measuring import Clock, Result, in_child, machine, peak_mib
from rich.console import Console
from rich.table import Table
from torch import Tensor

SIDES = ("fused", "plain")


def main() -> None:
    """Measure in child processes and print the table; with --child, make one measurement."""
    options = parse()
    torch.set_num_threads(options.threads)
    if options.child:
        print(json.dumps(measure(options)))
        return
    table = Table(title=f"head, hidden {options.hidden}, {options.dtype}, {options.threads} thread(s)")
    for column in ("vocabulary", "rows", "fused s", "plain s", "plain / fused", "fused MiB", "plain MiB"):
        table.add_column(column, justify="right")
    for vocab in options.vocab:
        for rows in options.rows:
            fused, plain = (measure_side(side, vocab, rows, options) for side in SIDES)
            table.add_row(str(vocab), str(rows), f"{fused['cpu_s']:.2f}", f"{plain['cpu_s']:.2f}",
                          f"{plain['cpu_s'] / fused['cpu_s']:.2f}x", f"{fused['extra_mib']:.0f}",
                          f"{plain['extra_mib']:.0f}")  # fmt: skip
    table.caption = f"CPU seconds of forward and backward; {machine()}"
    Console(width=120).print(table)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab", type=int, nargs="+", default=[32_000, 152_064])
    parser.add_argument("--rows", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure_side(side: str, vocab: int, rows: int, options: argparse.Namespace) -> Result:
    words = ["--child", side, "--vocab", vocab, "--rows", rows, "--hidden", options.hidden, "--dtype", options.dtype,
             "--threads", options.threads]  # fmt: skip
    return in_child(Path(__file__).resolve(), [str(word) for word in words])


def measure(options: argparse.Namespace) -> Result:
    """Measure one forward and backward pass after a small warm-up pass."""
    from mindspeed_dpo.device import activate

    activate("cpu")
    from mindspeed_dpo.models.chunked_logprob_head import LogProbHead
    from mindspeed_dpo.models.vocab_shard import VocabShard

    (vocab,), (rows,) = options.vocab, options.rows
    dtype = getattr(torch, options.dtype)
    shard = VocabShard(0, vocab, vocab)
    weight = (torch.randn(vocab, options.hidden) * 0.02).to(dtype).requires_grad_()

    def logps(hidden: Tensor, labels: Tensor) -> Tensor:
        if options.child == "fused":
            return LogProbHead.forward(None, hidden, labels, shard, weight)[:, 0]
        return F.linear(hidden, weight).float().log_softmax(-1).gather(1, labels[:, None])[:, 0]

    def once(count: int) -> None:
        weight.grad = None
        hidden = torch.randn(count, options.hidden).to(dtype).requires_grad_()
        logps(hidden, torch.randint(vocab, (count,))).sum().backward()

    once(2)
    held = peak_mib()
    clock = Clock()
    once(rows)
    return {**clock.read(), "extra_mib": peak_mib() - held}


if __name__ == "__main__":
    main()
