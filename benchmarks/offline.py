"""Compare offline DPO with TRL: pairs per second and peak memory for the same weights, pairs, dtype and threads.

    python benchmarks/offline.py --data dpo_en_demo.json --peer-python ~/trl/bin/python
    python benchmarks/offline.py --data dpo_en_demo.json --size 174m --dtype bfloat16 --sides cached
    python benchmarks/offline.py --data dpo_en_demo.json --size 40m-moe --peer-python ~/trl/bin/python

Each measurement runs in its own process; within a round the sides run one after the other, so that other load on the
machine affects all of them. Without --peer-python only our sides run. TRL needs a separate environment:
`python -m venv ~/trl && ~/trl/bin/pip install trl==1.16.0`. One-time work, such as precomputing the reference, is done
before the timer starts on both sides.

Sides: `live` and `cached` are ours; `trl` is TRL as installed, `trl-tuned` has the allocator settings of our CPU
workers, `trl-best` also has its reference precomputed and its pairs sorted by length. Gradient checkpointing is off
everywhere.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from measuring import Clock, Result, gemm_peak, in_child, machine, median, peak_mib, spread
from rich.console import Console
from rich.table import Table
from runs import offline_run
from workload import MAX_LENGTH, SIZES, MoeSize, prepare

from mindspeed_dpo.device.host_allocator import EQUIVALENT_VARIABLES

HERE = Path(__file__).resolve()
OURS = {"live": "live", "cached": "cached"}
PEERS = ("trl", "trl-tuned", "trl-best")
# Our side, the peer, and the target ratio, of dense models and of models with experts.
TARGETS = (("live", "trl", 4.0), ("live", "trl-tuned", 2.4), ("cached", "trl-tuned", 3.2), ("cached", "trl-best", 1.7))
MOE_TARGETS = (("live", "trl", 3.0), ("cached", "trl", None), ("live", "trl-tuned", None), ("cached", "trl-best", None))


def main() -> None:
    """Measure in child processes and print the tables; with --child, make one measurement."""
    options = parse()
    if options.child:
        print(json.dumps(ours(options)))
        return
    sides = [side for side in options.sides if side in OURS or options.peer_python]
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), options.data, SIZES[options.size], options.dtype, options.pairs)
        rounds = [{side: measure(side, folder, options) for side in sides} for _ in range(options.rounds)]
    report(rounds, options)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="pairs in ShareGPT format, such as dpo_en_demo.json")
    parser.add_argument("--size", choices=SIZES, default="40m")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=16, help="pairs to train on, spread evenly over the data")
    parser.add_argument("--batch", type=int, default=8, help="pairs per optimizer step")
    parser.add_argument("--micro-batch", type=int, default=2, help="pairs per micro-batch of our side")
    parser.add_argument("--peer-micro-batch", type=int, help="TRL's device batch size; default: --batch")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each side, alternating")
    parser.add_argument("--sides", nargs="+", choices=(*OURS, *PEERS), default=[*OURS, *PEERS])
    parser.add_argument("--peer-python", help="interpreter of an environment with TRL")
    parser.add_argument("--child", choices=OURS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(side: str, folder: str, options: argparse.Namespace) -> Result:
    """Measure one side once, in a child process."""
    threads = {"OMP_NUM_THREADS": str(options.threads)}
    common = ["--folder", folder, "--dtype", options.dtype, "--threads", options.threads, "--batch", options.batch]
    if side in OURS:
        own = ["--child", side, "--data", options.data, "--size", options.size, "--micro-batch", options.micro_batch]
        return in_child(HERE, [str(word) for word in [*own, *common]], threads)
    peer_micro_batch = options.peer_micro_batch or options.batch
    words = ["--side", side, "--max-length", MAX_LENGTH, "--micro-batch", peer_micro_batch, *common]
    tuned = {} if side == "trl" else EQUIVALENT_VARIABLES
    script = HERE.with_name("trl_offline.py")
    return in_child(script, [str(word) for word in words], {**threads, **tuned}, options.peer_python)


def ours(options: argparse.Namespace) -> Result:
    """Measure the trainer's own steps over all pairs once."""
    from one_process import offline

    torch.set_num_threads(options.threads)
    size, dtype = SIZES[options.size], getattr(torch, options.dtype)
    steps = len(json.loads((options.folder / "raw.json").read_text(encoding="utf-8"))) // options.batch
    keys: dict[str, Any] = {"micro_batch_size": options.micro_batch, "reference": OURS[options.child]}
    loop = {"train_iters": steps, "global_batch_size": options.batch, "bf16": dtype == torch.bfloat16}
    trainer, inputs = offline(offline_run(options.folder, size, keys, **loop))
    clock = Clock()
    losses = [trainer.step(step)["loss"] for step in range(steps)]
    used, peak = clock.read(), peak_mib()
    lengths = inputs.dataset.lengths()[: steps * options.batch]
    return {
        **used, "pairs": len(lengths), "peak_mib": peak, "first_loss": losses[0], "last_loss": losses[-1],
        "tokens": float(lengths.sum()),
        "gflop": size.gflop_of_pairs(lengths, passes=4 if options.child == "live" else 3),
        # bfloat16 products are slow on processors without bfloat16 instructions.
        "gemm_gflops": gemm_peak(dtype, *((1536, 5) if dtype == torch.float32 else (512, 2))),
    }  # fmt: skip


def report(rounds: list[dict[str, Result]], options: argparse.Namespace) -> None:
    """Print the medians of every side, then the ratios within a round and their targets."""
    table = Table(title=f"offline DPO, {options.size}, {options.dtype}, {options.threads} thread(s)")
    for column in ("", "pairs/CPU-s", "pairs/s", "peak MiB", "minimum GFLOP/CPU-s", "share of GEMM peak"):
        table.add_column(column, justify="right" if column else "left")
    for side in rounds[0]:
        each = [one[side] for one in rounds]
        rates = [f"{median([r['pairs'] / r[key] for r in each]):.3f}" for key in ("cpu_s", "wall_s")]
        work = [r["gflop"] / r["cpu_s"] for r in each if "gflop" in r]
        shares = [r["gflop"] / r["cpu_s"] / r["gemm_gflops"] for r in each if "gflop" in r]
        table.add_row(side, *rates, f"{median([r['peak_mib'] for r in each]):.0f}",
                      f"{median(work):.1f}" if work else "", f"{median(shares):.0%}" if shares else "")  # fmt: skip
    table.caption = (
        f"{options.rounds} round(s) of {rounds[0][next(iter(rounds[0]))]['pairs']:.0f} pairs, "
        f"{options.batch} per step, ours {options.micro_batch} per micro-batch; {machine(transformers)}"
    )
    console = Console(width=120)
    console.print(table)
    for mine, theirs, target in MOE_TARGETS if isinstance(SIZES[options.size], MoeSize) else TARGETS:
        if mine not in rounds[0] or theirs not in rounds[0]:
            continue
        faster, leaner = [], []
        for one in rounds:
            rates = [one[side]["pairs"] / one[side]["cpu_s"] for side in (mine, theirs)]
            faster.append(rates[0] / rates[1])
            leaner.append(one[mine]["peak_mib"] / one[theirs]["peak_mib"])
        console.print(
            f"{mine} vs {theirs}: {spread(faster)} pairs per CPU-second (target {target or '-'}x), peak memory "
            f"{median(leaner):.2f}x (target 0.33x)"
        )


if __name__ == "__main__":
    main()
