"""What a run writes is tried first: folders, space on the disk, other runs in the same folder."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from mindspeed_dpo.config.estimates.memory import checkpoint_bytes
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.storage.write_errors import WriteError
from mindspeed_dpo.trainers import output_checks
from mindspeed_dpo.trainers.last_line import last_line
from mindspeed_dpo.trainers.output_checks import check_outputs
from mindspeed_dpo.trainers.output_lock import RUN_LOCK, OutputInUseError, run_locks
from tests.unit.trainers.saved_runs import asking
from tests.unit.workers.pairs import random_run


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    return random_run(tmp_path)


def in_folder(run: RunConfig, folder: Path, **changes: object) -> RunConfig:
    return asking(replace(run, loop=replace(run.loop, output_dir=str(folder))), **{"save": folder / "save", **changes})


def test_a_run_that_can_be_written_leaves_no_trace_of_its_trial(run: RunConfig, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    check_outputs(in_folder(run, tmp_path / "out"), 4, 5)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("key", ["output_dir", "save", "reference_cache_dir", "wandb_save_dir"])
def test_every_folder_is_tried_and_named_by_its_key(key: str, run: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    bad = str(tmp_path / "file" / "below")
    run = in_folder(run, tmp_path / "out")
    assert run.ref is not None
    if key == "save":
        run = asking(run, save=bad)
    elif key == "reference_cache_dir":
        ref = replace(run.ref, checkpoint=replace(run.ref.checkpoint, random_init=False))
        actor = replace(run.actor, reference=replace(run.actor.reference, reference_cache_dir=bad))
        run = replace(run, actor=actor, ref=ref)
    else:
        trackers = {"use_wandb": True, "wandb_save_dir": str(tmp_path), key: bad}
        run = replace(run, loop=replace(run.loop, **trackers))
    with pytest.raises(WriteError, match=f"file/below cannot be written: Not a directory; set {key} to a folder"):
        check_outputs(run, 4, 5)


def test_a_disk_without_room_for_a_checkpoint_is_refused_and_for_all_of_them_warned_of(
    run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, one = in_folder(run, tmp_path / "out", save_interval=1), checkpoint_bytes(run.actor)
    monkeypatch.setattr(output_checks, "free_bytes", lambda folder: one - 1)
    with pytest.raises(ValueError, match=r"save=.*out/save has .* free, and a checkpoint of this run takes about"):
        check_outputs(run, 4, 0)
    monkeypatch.setattr(output_checks, "free_bytes", lambda folder: 4 * one - 1)
    check_outputs(run, 4, 0)
    (line,) = caplog.messages
    assert "the 4 checkpoints of this run take about" in line and "set keep_last_checkpoints" in line
    caplog.clear()
    check_outputs(in_folder(run, tmp_path / "out", save_interval=1, keep_last_checkpoints=1), 4, 0)
    assert not caplog.messages


@pytest.mark.parametrize("shared", ["output_dir", "save"])
def test_a_second_run_in_a_folder_is_refused_and_names_the_first(shared: str, run: RunConfig, tmp_path: Path) -> None:
    first = in_folder(run, tmp_path / "out")
    second = in_folder(run, tmp_path / ("out" if shared == "output_dir" else "other"))
    second = asking(second, save=tmp_path / "out" / "save" if shared == "save" else tmp_path / "apart")
    with run_locks(first):
        holder = rf"process {os.getpid()} on .* since 20\d\d-"
        with (
            pytest.raises(OutputInUseError, match=rf"{shared}=.* is in use by another run, {holder}"),
            run_locks(second),
        ):
            pass
        assert (tmp_path / "out" / RUN_LOCK).is_file()
    assert not (tmp_path / "out").exists() and not (tmp_path / "other").exists() and not (tmp_path / "apart").exists()
    with run_locks(second):
        pass


def test_one_folder_for_everything_is_locked_once(run: RunConfig, tmp_path: Path) -> None:
    with run_locks(in_folder(run, tmp_path, save=tmp_path)):
        pass


def test_the_last_line_says_where_things_are(run: RunConfig, tmp_path: Path) -> None:
    inside, outside = in_folder(run, tmp_path / "out"), in_folder(run, tmp_path / "out", save=tmp_path / "apart")
    assert last_line(inside, 4, True) == f"done: all outputs of this run are in {tmp_path}/out"
    expected = f"done: all other outputs of this run are in {tmp_path}/out; checkpoints in {tmp_path}/apart"
    assert last_line(outside, 4, True) == expected
    assert last_line(inside, 2, False).startswith(
        f"interrupted after step 2; resume with resume_from={tmp_path}/out; all outputs of this run are in"
    )
