"""Failed writes: one sentence with the file, the reason and what to change; a folder is tried without a trace."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mindspeed_dpo.storage.atomic_write import write_text_atomically
from mindspeed_dpo.storage.write_errors import WriteError, free_bytes, try_folder, write_errors


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_said_with_the_free_space(number: int, tmp_path: Path) -> None:
    with pytest.raises(WriteError) as caught, write_errors(tmp_path / "file", "no advice of this kind"):
        raise OSError(number, "whatever the system says")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/file cannot be written: {os.strerror(number)}; free space there (")
    assert "MiB are free) or choose a folder on another disk" in message and "advice" not in message


def test_the_device_that_is_always_full(tmp_path: Path) -> None:
    full = pytest.raises(WriteError, match="/dev/full cannot be written: No space left on device")
    with full, write_errors("/dev/full"), open("/dev/full", "wb", buffering=0) as file:
        file.write(b"0")


def test_a_name_that_is_too_long_is_said(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 300) / "a"
    assert free_bytes(folder) > 0
    with pytest.raises(WriteError, match="cannot be written: File name too long"):
        try_folder(folder)


def test_a_path_longer_than_any_is_said_in_part(tmp_path: Path) -> None:
    folder = tmp_path / ("a/" * 50_000)
    assert free_bytes(folder) > 0
    with pytest.raises(WriteError, match="… cannot be written: File name too long") as caught:
        try_folder(folder)
    assert len(str(caught.value)) < 1000


def _fail(*_: object) -> None:
    raise OSError(errno.ENOSPC, "no space")


def test_a_full_disk_leaves_no_part_of_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_text_atomically(path, "old")
    monkeypatch.setattr(os, "fsync", _fail)
    with pytest.raises(OSError, match="no space"):
        write_text_atomically(path, "new")
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"] and path.read_text() == "old"
    with pytest.raises(UnicodeEncodeError):
        write_text_atomically(path, "\ud800")
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_leaves_no_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_part(path: Path, data: bytes) -> None:
        path.touch()
        _fail()

    monkeypatch.setattr(Path, "write_bytes", write_part)
    with pytest.raises(WriteError, match="No space left"):
        try_folder(tmp_path / "a/b")
    assert not any(tmp_path.iterdir())


def test_other_reasons_come_with_the_advice(tmp_path: Path) -> None:
    said = pytest.raises(WriteError, match="file cannot be written: Read-only file system; set save")
    with said, write_errors(tmp_path / "file", "set save"):
        raise OSError(errno.EROFS, "")


def test_the_inner_sentence_stays(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="inner cannot be written"), write_errors("outer"), write_errors("inner"):
        raise OSError(errno.EIO, "")


@pytest.mark.parametrize("existing", ["", "a", "a/b/c"])
def test_a_folder_is_tried_without_a_trace(existing: str, tmp_path: Path) -> None:
    (tmp_path / existing).mkdir(parents=True, exist_ok=True)
    before = sorted(tmp_path.rglob("*"))
    try_folder(tmp_path / "a" / "b" / "c")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="file/below cannot be written: Not a directory; set save"):
        try_folder(tmp_path / "file" / "below", "set save")
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "file"]


def test_free_bytes_are_those_of_the_disk_a_path_would_be_on(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "there") > 0
