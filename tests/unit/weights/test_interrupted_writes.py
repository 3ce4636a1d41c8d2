"""Conversions that were killed can be started again; what a living process writes stays; a full disk is a sentence."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from convert_ckpt import FAILURE, main
from mindspeed_dpo.storage.process_lock import ProcessLock
from mindspeed_dpo.weights import WeightsError
from mindspeed_dpo.weights.output_folder import check_target, replace_folder, staging_folder

HfFolder = Callable[[str], Path]


def remains(target: Path) -> list[Path]:
    """What a kill leaves beside a target: a half-filled folder, the file of its lock, an older content put aside."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.with_name(f".{target.name}.unfinished")
    folder.mkdir()
    (folder / "half").write_bytes(b"0")
    lock = target.with_name(f".{target.name}.unfinished.lock")
    lock.write_text('{"host": "gone", "pid": 1, "since": "long ago"}')
    return [folder, lock]


@pytest.mark.parametrize("save", ["hf", "mg"])
def test_a_killed_conversion_can_be_started_again(save: str, hf_folder: HfFolder, tmp_path: Path) -> None:
    weights, target = tmp_path / "weights", tmp_path / "target"
    assert main(["--load-dir", str(hf_folder("llama")), "--save-dir", str(weights)]) == 0
    left = remains(target if save == "hf" else target / "iter_0000001")
    assert main(["--load-dir", str(weights), "--save-dir", str(target), "--save-model-type", save]) == 0
    assert not [path for path in left if path.exists()] and not list(tmp_path.rglob(".*"))


def test_what_a_living_process_writes_stays(tmp_path: Path) -> None:
    target = tmp_path / "target" / "iter_0000001"
    folder, lock = remains(target)
    with ProcessLock(lock):
        for attempt in (lambda: check_target(target.parent, overwrite=False), lambda: enter(staging_folder(target))):
            with pytest.raises(
                WeightsError, match=f"target.* is being written by process {os.getpid()} on .*; wait for"
            ):
                attempt()
        assert (folder / "half").is_file()
    check_target(target.parent, overwrite=False)


def enter(context: object) -> None:
    with context:  # type: ignore[attr-defined]
        pass


def test_files_of_the_user_are_no_remains(tmp_path: Path) -> None:
    remains(tmp_path / "target" / "x")
    (tmp_path / "target" / ".hidden").touch()
    with pytest.raises(WeightsError, match="is not empty"):
        check_target(tmp_path / "target", overwrite=False)


def test_nothing_is_left_where_the_caller_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), staging_folder(tmp_path / "a" / "b" / "target") as folder:
        (folder / "half").touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with staging_folder(tmp_path / "a" / "target") as folder:
        replace_folder(folder, tmp_path / "a" / "target")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["target"]


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """No file may grow beyond a size, as if its disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("save", ["hf", "mg"])
def test_a_disk_without_room_is_one_sentence(
    save: str, hf_folder: HfFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, target = tmp_path / "weights", tmp_path / "target"
    assert main(["--load-dir", str(hf_folder("llama")), "--save-dir", str(weights)]) == 0
    capsys.readouterr()
    with largest_file(20_000):
        code = main(["--load-dir", str(weights), "--save-dir", str(target), "--save-model-type", save])
    text = capsys.readouterr().err
    assert code == FAILURE and "Traceback" not in text
    assert "cannot be written: " in text.splitlines()[-1] and "File too large" in text, text
    assert not target.exists()


def put_aside(target: Path) -> Path:
    """Rename a folder as a kill leaves it between the two renames of a replacement."""
    return target.rename(target.with_name(f".{target.name}.replaced"))


@pytest.mark.parametrize("save", ["hf", "mg"])
def test_a_kill_while_a_folder_is_replaced_loses_nothing(
    save: str, hf_folder: HfFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "target"
    command = ["--load-dir", str(hf_folder("llama")), "--save-dir", str(target), "--save-model-type", save]
    assert main(command) == 0
    written = sorted(path for path in target.rglob("*"))
    aside = put_aside(target if save == "hf" else target / "iter_0000001")
    capsys.readouterr()
    assert main(["--load-dir", str(target), "--save-dir", str(tmp_path / "other")]) == FAILURE
    assert f"{aside} is the earlier content: rename it back" in capsys.readouterr().err
    # What was there must not be overwritten without permission, and is there again.
    assert main(command) == FAILURE
    assert "is not empty" in capsys.readouterr().err
    assert sorted(path for path in target.rglob("*")) == written and not aside.exists()


def test_a_folder_that_is_written_again_first_gets_its_earlier_content_back(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").touch()
    put_aside(target)
    with pytest.raises(RuntimeError), staging_folder(target):
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["old"]
