"""Resuming reads every file of a checkpoint without running what it names, and checks what it reads."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import MetadataIndex

from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import METADATA, iteration_dir
from tests.support.processes import pool
from tests.unit.engine import checkpoint_jobs
from tests.unit.engine.engine_jobs import Setup

pytestmark = pytest.mark.distributed


class Command:
    """Pickles as a call of `os.system`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, which each test changes and restores."""
    root = tmp_path_factory.mktemp("checkpoints")
    pool(1).run(checkpoint_jobs.norms_and_weights, Setup(), 1, root)
    return iteration_dir(root, 1)


def replace_common(folder: Path, evil: object) -> None:
    torch.save({"step_count": 1, "x": evil}, folder / "common.pt")


def replace_metadata(folder: Path, evil: object) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(evil))


def replace_object(folder: Path, evil: object) -> None:
    """Store the random state of the checkpoint again, as something else."""
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    (key,) = [key for key in metadata.state_dict_metadata if key.startswith("rng/")]
    index = MetadataIndex(key)
    with (folder / "evil.distcp").open("wb") as file:
        torch.save([evil], file)
    info = metadata.storage_data[index]
    metadata.storage_data[index] = type(info)("evil.distcp", 0, (folder / "evil.distcp").stat().st_size)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def replace_format(folder: Path, _: object) -> None:
    (folder / "metadata.json").write_text('{"sharded_backend": "zarr", "sharded_backend_version": 1}')


def list_a_chunk_twice(folder: Path, _: object) -> None:
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    chunks = metadata.state_dict_metadata["decoder.layers.mlp.linear_fc1.weight"].chunks
    chunks.append(chunks[0])
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (replace_common, r"common\.pt: .*system, which is not data"),
        (replace_metadata, r"\.metadata: .*system, which is not data"),
        (replace_object, r"evil\.distcp: .*system, which is not data"),
        (replace_format, r"metadata\.json: sharded_backend must be torch_dist"),
        (list_a_chunk_twice, "linear_fc1.weight is incomplete or stored twice"),
    ],
)
def test_what_is_not_data_stops_a_resume_and_does_not_run(
    folder: Path, change: Callable[[Path, object], None], words: str, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    change(folder, Command(tmp_path / "called"))
    # As a forger would leave it: without digests, as in checkpoints of earlier versions.
    description = {k: v for k, v in json.loads(before[METADATA]).items() if k not in ("digests", "xxh3_64")}
    description["files"] = {path.name: path.stat().st_size for path in folder.iterdir() if path.name != METADATA}
    (folder / METADATA).write_text(json.dumps(description))
    try:
        (sentence,) = pool(1).run(checkpoint_jobs.refusal, folder)
    finally:
        (folder / "evil.distcp").unlink(missing_ok=True)
        for name, content in before.items():
            (folder / name).write_bytes(content)
    assert re.search(words, sentence) and sentence.endswith("use an earlier iteration")
    assert not (tmp_path / "called").exists()
