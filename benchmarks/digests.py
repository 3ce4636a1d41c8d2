"""Measure what the digests of checkpoint files cost: a save with and without them, synchronous and in the background.

    python benchmarks/digests.py --mib 1024 --rounds 5

The same tensors are written with `fsync` to the same folder, the two sides in turns, in pairs. A save in the background
writes from memory, as the thread of `async_save` does. The cost is what a pair differs by in CPU time of the process,
the kernel's part included, by the wall time of the fastest save without digests: CPU time is what a digest takes, and
varies less than the wall time of a disk, which is shown beside it. Its median and quartiles over the pairs are given,
and the same of pairs of two saves without digests, which is the noise of the measurement.
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
import torch.distributed.checkpoint as dcp
import xxhash
from measuring import least_seconds, machine, median, spread
from rich.console import Console
from rich.table import Table

from mindspeed_dpo.engine.checkpoints.async_checkpoint import write_file
from mindspeed_dpo.engine.checkpoints.checkpoint_tensor_writer import DigestedFiles, DigestedWriter
from mindspeed_dpo.storage.digests import BlockHasher

TENSOR_MIB = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024, help="size of the checkpoint")
    parser.add_argument("--rounds", type=int, default=15, help="pairs, at least 2")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="folder on the disk to write to"
    )
    options = parser.parse_args()
    state = {f"tensor{n}": torch.randn(TENSOR_MIB << 18) for n in range(max(1, options.mib // TENSOR_MIB))}
    content = io.BytesIO()
    torch.save(state, content)
    sides = {
        "save": lambda folder: save(state, DigestedWriter(folder, DigestedFiles())),
        "write in the background": lambda folder: write_file(folder / "file", content),
    }
    table = Table(
        *("what", "rate", "wall without, s", "wall with, s", "CPU without, s", "cost", "noise"),
        title=f"{options.mib} MiB in {options.folder}, {options.rounds} pairs",
    )
    for name, digested in sides.items():
        plain = functools.partial(without_digests, digested)
        without, with_digests = measure(plain, digested, options.folder, options.rounds)
        noise = measure(plain, plain, options.folder, options.rounds)
        fastest = min(seconds.wall for seconds in without)
        rate = f"{content.getbuffer().nbytes / 2**30 / fastest:.2f} GiB/s"
        cost, of_none = shares(without, with_digests, fastest), shares(*noise, fastest)
        walls = (spread([seconds.wall for seconds in side], "") for side in (without, with_digests))
        table.add_row(name, rate, *walls, spread([seconds.cpu for seconds in without], ""), cost, of_none)
        print(f"{name}: {rate}, cost {cost}, noise {of_none}")
    console = Console()
    console.print(table)
    alone_s = digest_seconds(content)
    console.print(f"digest alone: {content.getbuffer().nbytes / alone_s / 2**30:.1f} GiB per CPU-second")
    console.print(machine(xxhash_module()))


class Seconds(NamedTuple):
    """What one save took."""

    wall: float
    cpu: float


def shares(one: Sequence[Seconds], other: Sequence[Seconds], wall_s: float) -> str:
    """Format what the CPU time of the second of a pair exceeds that of the first by, as shares of a wall time."""
    differences = [(b.cpu - a.cpu) / wall_s for a, b in zip(one, other, strict=True)]
    lower, _, upper = statistics.quantiles(differences, n=4)
    return f"{median(differences):.1%} ({lower:.1%} to {upper:.1%})"


def xxhash_module() -> object:
    """Return the library with the attribute that `machine` shows."""
    xxhash.__version__ = xxhash.VERSION
    return xxhash


def save(state: dict[str, torch.Tensor], writer: dcp.FileSystemWriter) -> None:
    """Write a checkpoint as one rank does."""
    dcp.save(state, storage_writer=writer, no_dist=True)


def without_digests(write: Callable[[Path], object], folder: Path) -> None:
    """Write in the same pieces, without a digest of them."""
    with mock.patch.object(BlockHasher, "update", lambda self, content: None):
        write(folder)


def measure(
    one: Callable[[Path], object], other: Callable[[Path], object], root: Path, rounds: int
) -> tuple[list[Seconds], list[Seconds]]:
    """Return what both sides took, in turns; each begins every second round. The first round is dropped."""
    taken: dict[int, list[Seconds]] = {0: [], 1: []}
    for number in range(rounds + 1):
        for side in (0, 1) if number % 2 else (1, 0):
            folder = Path(tempfile.mkdtemp(dir=root))
            os.sync()
            wall, cpu = time.perf_counter(), time.process_time()
            (one, other)[side](folder)
            taken[side].append(Seconds(time.perf_counter() - wall, time.process_time() - cpu))
            shutil.rmtree(folder)
    return taken[0][1:], taken[1][1:]


def digest_seconds(content: io.BytesIO) -> float:
    """Return the CPU seconds of the digest alone."""
    view = content.getbuffer()
    return least_seconds(lambda: BlockHasher().update(view), times=3)


if __name__ == "__main__":
    main()
