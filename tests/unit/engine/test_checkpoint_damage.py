"""Checkpoints that come to harm: a changed bit is noticed while it is read, a full disk while it is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mindspeed_dpo.engine.checkpoints.checkpoint_verification import file_digests, verify
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import iteration_dir, latest, read_metadata
from mindspeed_dpo.storage.digests import file_digest
from mindspeed_dpo.weights import WeightsError, open_weights
from tests.support.processes import pool
from tests.unit.engine import checkpoint_jobs
from tests.unit.engine.engine_jobs import Setup

pytestmark = pytest.mark.distributed


def flip(path: Path, position: int) -> None:
    """Change one bit of a file; its size stays."""
    content = bytearray(path.read_bytes())
    content[position] ^= 16
    path.write_bytes(content)


def test_every_file_of_every_rank_has_the_digest_of_what_was_written(tmp_path: Path) -> None:
    pool(2).run(checkpoint_jobs.norms_and_weights, Setup(tp=2), 1, tmp_path)
    folder = iteration_dir(tmp_path, 1)
    digests = file_digests(read_metadata(folder))
    files = {path.name for path in folder.iterdir()} - {"mindspeed_dpo.json"}
    assert digests.keys() == files and {"__0_0.distcp", "__1_0.distcp", ".metadata", "common.pt"} <= files
    assert all(digests[name] == file_digest(folder / name) for name in files)
    verify(folder)


@pytest.mark.parametrize("name", ["__1_0.distcp", "__0_0.distcp", ".metadata", "common.pt"])
def test_a_changed_bit_in_any_file_is_noticed_by_whoever_reads_it(name: str, tmp_path: Path) -> None:
    pool(2).run(checkpoint_jobs.norms_and_weights, Setup(tp=2), 1, tmp_path)
    path = iteration_dir(tmp_path, 1) / name
    flip(path, path.stat().st_size // 2)
    noticed = [
        text for text in pool(2).run(checkpoint_jobs.error_of_load, Setup(tp=2), tmp_path, 1) if text != "no error"
    ]
    assert noticed
    for said in noticed:
        assert re.match(
            rf"{path} is damaged: bytes 0 to \d+ were written with the xxh3_64 digest \w{{16}} and now have \w{{16}}; "
            rf"resume the newest undamaged one with \S+resume_from={tmp_path} \S+resume=latest_whole",
            said,
        ), said


def test_a_damaged_weight_is_not_converted(tmp_path: Path) -> None:
    pool(1).run(checkpoint_jobs.norms_and_weights, Setup(), 1, tmp_path)
    path = iteration_dir(tmp_path, 1) / "__0_0.distcp"
    source = open_weights(tmp_path)
    model = source.model_config()
    assert dict(source.hf_tensors(model))
    flip(path, path.stat().st_size // 3)
    with pytest.raises(WeightsError, match=r"__0_0\.distcp is damaged: bytes 0 to \d+ "):
        dict(open_weights(tmp_path).hf_tensors(model))


@pytest.mark.parametrize(
    ("failing", "after"), [("common.pt", 20), ("__1_0.distcp", 0), ("__0_0.distcp", 5000), (".metadata.tmp", 10)]
)
def test_a_full_disk_is_one_sentence_and_the_checkpoint_before_stays(failing: str, after: int, tmp_path: Path) -> None:
    for said, left in pool(2).run(checkpoint_jobs.error_of_save, Setup(tp=2), tmp_path, failing, after):
        assert re.fullmatch(
            rf"{tmp_path}/\S+ cannot be written: No space left on device; free space there \(\S+ MiB are free\) or "
            r"choose a folder on another disk\. Earlier checkpoints are complete",
            said,
        ), said
        assert left == ["iter_0000001", "latest_checkpointed_iteration.txt"]
    assert latest(tmp_path) == iteration_dir(tmp_path, 3)
    verify(iteration_dir(tmp_path, 1))
    verify(iteration_dir(tmp_path, 3))
