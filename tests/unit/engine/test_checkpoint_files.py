"""Checkpoint folders as files: complete or absent, the newest one by its tracker, a sentence for everything else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mindspeed_dpo.engine.checkpoints.checkpoint_commit import begin, finish, restore_replaced
from mindspeed_dpo.engine.checkpoints.checkpoint_verification import latest_whole, stored_digests, verify
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import (
    FORMAT,
    METADATA,
    TRACKER,
    CheckpointError,
    iteration_dir,
    latest,
    read_metadata,
)
from mindspeed_dpo.storage.digesting_file import DigestingFile

TENSOR_FILES = ("metadata.json", "common.pt", ".metadata")


def write(root: Path, iteration: int, **metadata: object) -> Path:
    folder = begin(root, iteration)
    for name in TENSOR_FILES:
        (folder / name).touch()
    finish(root, iteration, {"iteration": iteration, **metadata})
    return iteration_dir(root, iteration)


def test_the_newest_finished_checkpoint_is_returned_with_its_metadata(tmp_path: Path) -> None:
    write(tmp_path / "new" / "root", 20)
    newest = write(tmp_path / "new" / "root", 30, seed=7)
    assert latest(tmp_path / "new" / "root") == newest == tmp_path / "new" / "root" / "iter_0000030"
    sizes = dict.fromkeys(TENSOR_FILES, 0)
    metadata = read_metadata(newest)
    assert metadata.pop("xxh3_64") and set(metadata.pop("digests")) == set(TENSOR_FILES)
    assert metadata == {"format": FORMAT, "iteration": 30, "seed": 7, "files": sizes}


def test_the_last_one_written_counts_as_newest_even_if_its_number_is_smaller(tmp_path: Path) -> None:
    write(tmp_path, 30)
    write(tmp_path, 20)
    assert latest(tmp_path).name == "iter_0000020"


def test_a_save_that_was_killed_changes_nothing(tmp_path: Path) -> None:
    complete = write(tmp_path, 10)
    (begin(tmp_path, 20) / ".metadata").touch()
    assert latest(tmp_path) == complete
    assert not iteration_dir(tmp_path, 20).exists()


def test_a_save_begins_in_an_empty_folder(tmp_path: Path) -> None:
    first = begin(tmp_path, 10)
    (first / "inner").mkdir()
    (first / "inner" / "left").touch()
    assert begin(tmp_path, 10) == first and list(first.iterdir()) == []


def test_writing_an_iteration_again_replaces_it(tmp_path: Path) -> None:
    (write(tmp_path, 10, seed=1) / "stray").touch()
    folder = write(tmp_path, 10, seed=2)
    assert read_metadata(folder)["seed"] == 2
    assert not (folder / "stray").exists()


def test_only_finished_files_are_left(tmp_path: Path) -> None:
    write(tmp_path, 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iter_0000010", TRACKER]
    assert (tmp_path / TRACKER).read_text() == "10"


@pytest.mark.parametrize("name", [METADATA, *TENSOR_FILES])
def test_a_folder_that_lacks_a_file_is_incomplete(name: str, tmp_path: Path) -> None:
    (write(tmp_path, 10) / name).unlink()
    for read in (lambda: read_metadata(tmp_path / "iter_0000010"), lambda: latest(tmp_path)):
        with pytest.raises(
            CheckpointError, match=rf"iter_0000010 is not a complete checkpoint: {name} missing; resume the"
        ):
            read()


def test_all_missing_files_are_named_at_once(tmp_path: Path) -> None:
    sentence = "mindspeed_dpo.json, metadata.json, common.pt, .metadata missing"
    with pytest.raises(CheckpointError, match=sentence):
        read_metadata(tmp_path)


def test_a_folder_without_checkpoints_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"holds no checkpoint: {TRACKER} is missing; give the `save` folder"):
        latest(tmp_path)


@pytest.mark.parametrize("text", ["", "release", "-3", "1.5"])
def test_a_tracker_that_holds_no_number_is_shown(text: str, tmp_path: Path) -> None:
    (tmp_path / TRACKER).write_text(f"{text}\n")
    with pytest.raises(CheckpointError, match=f"must contain an iteration number, got {text!r}; give the folder"):
        latest(tmp_path)


def test_a_tracker_may_end_with_a_newline(tmp_path: Path) -> None:
    folder = write(tmp_path, 10)
    (tmp_path / TRACKER).write_text("10\n")
    assert latest(tmp_path) == folder


def test_a_tracker_that_names_an_absent_iteration_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, 10)
    (tmp_path / TRACKER).write_text("11")
    with pytest.raises(CheckpointError, match="iter_0000011 is not a complete checkpoint"):
        latest(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"longer than it was"])
def test_a_file_of_another_size_is_damage(damage: bytes, tmp_path: Path) -> None:
    folder = begin(tmp_path, 10)
    for name in (*TENSOR_FILES, "__0_0.distcp"):
        (folder / name).write_bytes(b"tensors")
    finish(tmp_path, 10, {"iteration": 10})
    assert latest(tmp_path) == iteration_dir(tmp_path, 10)
    (iteration_dir(tmp_path, 10) / "__0_0.distcp").write_bytes(damage)
    with pytest.raises(
        CheckpointError, match=r"iter_0000010 is damaged: __0_0\.distcp missing or of another size than when written"
    ):
        latest(tmp_path)


def test_a_description_that_is_cut_off_is_damage(tmp_path: Path) -> None:
    path = write(tmp_path, 10) / METADATA
    path.write_text(path.read_text()[:-5])
    with pytest.raises(CheckpointError, match=rf"{METADATA}.* invalid JSON.*, or use an earlier iteration"):
        latest(tmp_path)


def test_writing_again_after_a_kill_while_replacing_succeeds(tmp_path: Path) -> None:
    left = write(tmp_path, 10, seed=1).with_name("iter_0000010.replaced")
    left.mkdir()
    (left / "old").touch()
    assert read_metadata(write(tmp_path, 10, seed=2))["seed"] == 2
    assert not left.exists()


@pytest.mark.parametrize("value", [FORMAT + 1, None])
def test_another_format_is_refused(value: int | None, tmp_path: Path) -> None:
    folder = write(tmp_path, 10)
    (folder / METADATA).write_text(json.dumps({"format": value}))
    with pytest.raises(CheckpointError, match=f"has format {value}, this version reads format {FORMAT}"):
        read_metadata(folder)


CONTENTS = {name: f"content of {name}".encode() * 3 for name in (*TENSOR_FILES, "__0_0.distcp", "adapter/model")}


def write_contents(root: Path, iteration: int) -> Path:
    folder = begin(root, iteration)
    (folder / "adapter").mkdir()
    digests = {}
    for name, content in CONTENTS.items():
        with DigestingFile(folder / name) as file:
            file.write(content)
        digests[name] = file.digest
    # As of megatron-core's own files, the digest of one is left to `finish`.
    del digests["common.pt"]
    finish(root, iteration, {"iteration": iteration}, digests)
    return iteration_dir(root, iteration)


def flip(path: Path) -> None:
    """Change one bit in the middle of a file; its size stays."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("name", CONTENTS)
def test_one_changed_bit_in_any_file_is_damage_with_both_digests(name: str, tmp_path: Path) -> None:
    folder = write_contents(tmp_path, 10)
    verify(folder)
    flip(folder / name)
    both = r"were written with the xxh3_64 digest \w{16} and now have \w{16}; resume"
    with pytest.raises(CheckpointError, match=rf"iter_0000010/{name} is damaged: bytes 0 to \d+ {both}"):
        verify(folder)


def test_a_changed_value_in_the_metadata_is_damage(tmp_path: Path) -> None:
    path = write_contents(tmp_path, 10) / METADATA
    path.write_text(path.read_text().replace('"iteration": 10', '"iteration": 16'))
    with pytest.raises(CheckpointError, match=rf"{METADATA} is damaged: it was written with the xxh3_64 digest"):
        latest(tmp_path)


def test_the_newest_undamaged_checkpoint_is_taken_and_the_others_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for iteration in (10, 20, 30, 40):
        write_contents(tmp_path, iteration)
    flip(tmp_path / "iter_0000040" / "__0_0.distcp")
    (tmp_path / "iter_0000030" / "common.pt").unlink()
    assert latest_whole(tmp_path) == tmp_path / "iter_0000020"
    passed = [line for line in caplog.messages if line.startswith("passed over: ")]
    assert "iter_0000040/__0_0.distcp is damaged" in passed[0] and "common.pt missing" in passed[1] and len(passed) == 2
    assert latest_whole(tmp_path, last=10) == tmp_path / "iter_0000010"


@pytest.mark.parametrize("tracker", [None, "", "77"])
def test_a_lost_tracker_hides_no_checkpoint(tracker: str | None, tmp_path: Path) -> None:
    folder = write_contents(tmp_path, 10)
    (tmp_path / TRACKER).unlink()
    if tracker is not None:
        (tmp_path / TRACKER).write_text(tracker)
    assert latest_whole(tmp_path) == folder


def test_where_all_are_damaged_each_is_named(tmp_path: Path) -> None:
    for iteration in (10, 20):
        flip(write_contents(tmp_path, iteration) / "metadata.json")
    with pytest.raises(CheckpointError, match=r"holds no undamaged checkpoint: .*0020/meta.*; .*0010/metadata\.json"):
        latest_whole(tmp_path)


def test_a_checkpoint_of_an_earlier_version_is_checked_by_its_sizes(tmp_path: Path) -> None:
    folder = write_contents(tmp_path, 10)
    metadata = json.loads((folder / METADATA).read_text())
    del metadata["digests"], metadata["xxh3_64"]
    (folder / METADATA).write_text(json.dumps(metadata))
    assert latest_whole(tmp_path) == folder and stored_digests(folder) == {}
    (folder / "common.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"common\.pt missing or of another size"):
        verify(folder)


def interrupted_replacement(root: Path) -> Path:
    """A save folder as a kill leaves it between the two renames that replace iteration 10."""
    old = write(root, 10, seed=1)
    old.rename(old.with_name("iter_0000010.replaced"))
    (old.with_name("iter_0000010.partial")).mkdir()
    return old


def test_a_kill_while_a_checkpoint_is_replaced_loses_nothing(tmp_path: Path) -> None:
    old = interrupted_replacement(tmp_path)
    with pytest.raises(CheckpointError, match=r"iter_0000010\.replaced is the earlier content: rename it back"):
        latest(tmp_path)
    begin(tmp_path, 20)
    assert latest(tmp_path) == old and read_metadata(old)["seed"] == 1
    assert sorted(path.name for path in tmp_path.glob("iter_*")) == ["iter_0000010", "iter_0000020.partial"]


def test_a_kill_after_a_checkpoint_was_replaced_leaves_the_new_one(tmp_path: Path) -> None:
    old = write(tmp_path, 10, seed=1)
    old.rename(old.with_name("iter_0000010.replaced"))
    write(tmp_path / "other", 10, seed=2).rename(old)
    restore_replaced(tmp_path)
    assert read_metadata(old)["seed"] == 2 and not old.with_name("iter_0000010.replaced").exists()


def test_a_checkpoint_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, rename = write(tmp_path, 10, seed=1), Path.rename
    folder = begin(tmp_path, 10)

    def fail_for_new(path: Path, target: Path) -> Path:
        if path == folder:
            raise OSError("no")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_for_new)
    with pytest.raises(OSError, match="no"):
        finish(tmp_path, 10, {"iteration": 10})
    assert latest(tmp_path) == old and read_metadata(old)["seed"] == 1
