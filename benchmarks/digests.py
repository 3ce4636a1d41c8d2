"""Measure what the digests of checkpoint files cost: a save with and without them, synchronous and in the background.

    python benchmarks/digests.py --mib 1024 --rounds 5

The same tensors are written with `fsync` to the same folder, the two sides in turns. A save in the background writes
from memory, as the thread of `async_save` does. Large pieces are digested in a second thread while they are written.
The ratio is that of the least times, as a disk varies more than the digest takes; the medians are shown beside it.
"digest alone" is what one thread would add: its CPU time by the time of the save.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="folder on the disk to write to"
    )
    options = parser.parse_args()
    state = {f"tensor{n}": torch.randn(TENSOR_MIB << 18) for n in range(max(1, options.mib // TENSOR_MIB))}
    content = io.BytesIO()
    torch.save(state, content)
    sides = {
        "save": (lambda folder: save(state, dcp.FileSystemWriter(folder, thread_count=1)),
                 lambda folder: save(state, DigestedWriter(folder, DigestedFiles()))),
        "write in the background": (lambda folder: write_plainly(folder, content),
                                    lambda folder: write_file(folder / "file", content)),
    }  # fmt: skip
    alone_s = digest_seconds(content)
    table = Table(
        *("what", "without, s", "with, s", "rate", "ratio of least", "ratio of medians", "digest alone"),
        title=f"{options.mib} MiB in {options.folder}",
    )
    for name, (plain, digested) in sides.items():
        without, with_digests = measure(plain, digested, options.folder, options.rounds)
        ratio, of_medians = min(with_digests) / min(without), median(with_digests) / median(without)
        rate, share = content.getbuffer().nbytes / 2**30 / min(without), alone_s / min(without)
        cells = (f"{rate:.2f} GiB/s", f"{ratio:.3f}", f"{of_medians:.3f}", f"{share:.1%}")
        table.add_row(name, spread(without, ""), spread(with_digests, ""), *cells)
        print(f"{name}: {cells[0]}, ratio {ratio:.3f}, digest alone {share:.1%} of the save")
    console = Console()
    console.print(table)
    console.print(f"digest alone: {content.getbuffer().nbytes / alone_s / 2**30:.1f} GiB per CPU-second")
    console.print(machine(xxhash_module()))


def xxhash_module() -> object:
    """Return the library with the attribute that `machine` shows."""
    xxhash.__version__ = xxhash.VERSION
    return xxhash


def save(state: dict[str, torch.Tensor], writer: dcp.FileSystemWriter) -> None:
    """Write a checkpoint as one rank does."""
    dcp.save(state, storage_writer=writer, no_dist=True)


def write_plainly(folder: Path, content: io.BytesIO) -> None:
    """Write a file as a save in the background does, without a digest."""
    with (folder / "file").open("wb") as file:
        file.write(content.getbuffer())
        file.flush()
        os.fsync(file.fileno())


def measure(
    one: Callable[[Path], object], other: Callable[[Path], object], root: Path, rounds: int
) -> tuple[list[float], list[float]]:
    """Return the wall seconds of both sides, in turns; each begins every second round. The first round is dropped."""
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for number in range(rounds + 1):
        for side in (0, 1) if number % 2 else (1, 0):
            folder = Path(tempfile.mkdtemp(dir=root))
            os.sync()
            start = time.perf_counter()
            (one, other)[side](folder)
            seconds[side].append(time.perf_counter() - start)
            shutil.rmtree(folder)
    return seconds[0][1:], seconds[1][1:]


def digest_seconds(content: io.BytesIO) -> float:
    """Return the CPU seconds of the digest alone."""
    view = content.getbuffer()
    return least_seconds(lambda: BlockHasher().update(view), times=3)


if __name__ == "__main__":
    main()
