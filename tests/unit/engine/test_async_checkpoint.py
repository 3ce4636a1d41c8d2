"""Saves that are written in the background: the same bytes, whatever happens to the weights meanwhile, or none."""

from __future__ import annotations

import io
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.checkpoint import FileSystemReader

from mindspeed_dpo.device import find_accelerator
from mindspeed_dpo.engine.checkpoints import async_checkpoint, save_and_load
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import iteration_dir, latest, read_metadata
from mindspeed_dpo.storage.digests import FileDigest
from tests.support.processes import pool
from tests.unit.engine.checkpoint_jobs import save
from tests.unit.engine.engine_jobs import MODEL, Setup, build, train

pytestmark = pytest.mark.distributed


def begin(engine: Any, folder: Path, iteration: int) -> async_checkpoint.PendingCheckpoint:
    what = (
        folder,
        engine,
        find_accelerator("cpu"),
        save_and_load.CheckpointParts(),
        {"iteration": iteration, "model": MODEL.as_dict()},
    )
    return save_and_load.start_save(*what, in_background=True)


def save_twice(setup: Setup, folder: Path) -> bool:
    """A blocking save; and one whose writer is held up until the weights have changed. Whether it was seen waiting."""
    engine, write, go = build(setup), async_checkpoint.write_file, threading.Event()

    def held(path: Path, content: io.BytesIO) -> FileDigest:
        assert go.wait(60)
        return write(path, content)

    train(engine, setup, 2)
    save(engine, folder / "blocking", 2)
    async_checkpoint.write_file = held
    begun = begin(engine, folder / "threaded", 2)
    train(engine, setup, 1)
    waiting = not begun.is_written(wait=False)
    go.set()
    assert begun.is_written(wait=True) and begun.is_written(wait=False)
    async_checkpoint.write_file = write
    save_and_load.complete(begun)
    save(engine, folder / "later", 3)
    return waiting


@pytest.mark.parametrize(
    ("processes", "layout"),
    [(1, {}), (2, {"tp": 2}), (2, {"pp": 2}), (2, {"distributed_optimizer": True})],
    ids=["one process", "TP2", "PP2", "DP2 sharded"],
)
def test_the_bytes_are_those_of_a_save_that_waits(processes: int, layout: dict[str, Any], tmp_path: Path) -> None:
    waiting = pool(processes).run(save_twice, Setup(bf16=True, **layout), tmp_path)
    one, other = (iteration_dir(tmp_path / name, 2) for name in ("blocking", "threaded"))
    # Replicas have nothing to write, the first process has at least the index.
    assert waiting[0]
    names = {path.name for path in one.iterdir()}
    assert names == {path.name for path in other.iterdir()} and any(name.endswith(".distcp") for name in names)
    for name in names - {".metadata", "mindspeed_dpo.json"}:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    # The index names the folder it was written to; these two have equally long names.
    assert index(one) == index(other) and described(one) == described(other)
    later = iteration_dir(tmp_path / "later", 3)
    assert (later / "__0_0.distcp").read_bytes() != (other / "__0_0.distcp").read_bytes()


def described(folder: Path) -> dict[str, Any]:
    """The metadata without the digests of what names the folder: the index, and the metadata itself."""
    metadata = read_metadata(folder)
    del metadata["xxh3_64"], metadata["digests"][".metadata"]
    return metadata


def index(folder: Path) -> Any:
    """Where each tensor lies, without the folder and the number of the save."""
    return replace(FileSystemReader(folder).read_metadata(), storage_meta=None)


def fail_to_write(folder: Path) -> tuple[str, list[str]]:
    """Of a save after a complete one: its error, and the folder's content after it."""
    engine, write = build(Setup()), async_checkpoint.write_file
    save(engine, folder, 1)

    def full(path: Path, content: io.BytesIO) -> FileDigest:
        path.write_bytes(content.getvalue()[:10])
        raise OSError(28, "No space left on device")

    async_checkpoint.write_file = full
    begun, said = begin(engine, folder, 2), ""
    try:
        begun.is_written(wait=True)
    except ValueError as error:
        said = str(error)
    async_checkpoint.write_file = write
    left = sorted(path.name for path in folder.iterdir())
    assert latest(folder) == iteration_dir(folder, 1)
    save(engine, folder, 3)
    return said, left


def test_a_save_that_cannot_be_written_is_reported_and_leaves_the_one_before(tmp_path: Path) -> None:
    ((said, left),) = pool(1).run(fail_to_write, tmp_path)
    assert re.sub(r"[\d.]+ MiB are free", "FREE", said) == (
        f"{tmp_path}/iter_0000002 cannot be written: No space left on device; free space there (FREE) or choose a "
        "folder on another disk. Earlier checkpoints are complete"
    )
    assert left == ["iter_0000001", "iter_0000002.partial", "latest_checkpointed_iteration.txt"]
    assert sorted(path.name for path in tmp_path.glob("iter*")) == ["iter_0000001", "iter_0000003"]
