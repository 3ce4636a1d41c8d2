"""The reference cache: exact round trip, damage counts as absence, the fingerprint follows content and cuts."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mindspeed_dpo.config.settings.data import DataConfig
from mindspeed_dpo.data.datasets.data_fingerprint import data_fingerprint
from mindspeed_dpo.data.datasets.reference_cache import ReferenceCache
from mindspeed_dpo.data.indexed.column_group import IGNORE_INDEX, PAIR_COLUMNS
from mindspeed_dpo.data.indexed.column_group_metadata import meta_path
from mindspeed_dpo.data.indexed.column_group_writer import writing
from mindspeed_dpo.storage.write_errors import WriteError

VALUES = np.array([[-1.5, -2.25], [0.0, -1e-300], [-60085.123456789, -7.0]], np.float64)
ROWS = np.arange(3)


def written(folder: Path, name: str = "abc", *parts: list[int]) -> ReferenceCache:
    cache = ReferenceCache(folder, name, 3)
    for rows in parts or ([0, 1, 2],):
        cache.append(np.array(rows), VALUES[rows])
    return cache


def test_values_come_back_bit_by_bit(tmp_path: Path) -> None:
    written(tmp_path / "new" / "folder")
    actual = ReferenceCache(tmp_path / "new" / "folder", "abc", 3).read()
    assert actual.values.dtype == np.float64 and actual.is_present.all()
    assert actual.values.tobytes() == VALUES.tobytes() and actual.values.shape == (3, 2)
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["abc.v3.ref_logps"]


def test_what_was_stored_before_an_interruption_is_there(tmp_path: Path) -> None:
    cache = written(tmp_path, "abc", [2], [0])
    found = cache.read()
    assert found.is_present.tolist() == [True, False, True]
    assert np.array_equal(found.values[[0, 2]], VALUES[[0, 2]])
    cache.append(np.array([1]), VALUES[[1]])
    assert cache.read().is_present.all() and np.array_equal(cache.read().values, VALUES)


def test_another_fingerprint_is_another_file(tmp_path: Path) -> None:
    written(tmp_path)
    assert not ReferenceCache(tmp_path, "abd", 3).read().is_present.any()


@pytest.mark.parametrize("place", [0, 9, 20, 33, 40, 55])
def test_a_changed_bit_loses_the_rows_of_its_chunk_only(
    place: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = written(tmp_path, "abc", [0], [1], [2])
    content = bytearray(cache.path.read_bytes())
    size = len(content) // 3
    content[size + place] ^= 1
    cache.path.write_bytes(content)
    found = cache.read()
    assert found.is_present.tolist() == [True, False, True]
    assert np.array_equal(found.values[[0, 2]], VALUES[[0, 2]])
    (line,) = caplog.messages
    assert f"abc.v3.ref_logps is damaged: bytes {size} to {2 * size - 1} " in line and "rows again" in line
    cache.append(np.array([1]), VALUES[[1]])
    assert cache.read().is_present.all()


def test_both_digests_of_a_damaged_chunk_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = written(tmp_path)
    content = bytearray(cache.path.read_bytes())
    content[-1] ^= 128
    cache.path.write_bytes(content)
    assert not cache.read().is_present.any()
    assert re.search(r"were written with the xxh3_64 digest \w{16} and now have \w{16}; computing", caplog.text)


@pytest.mark.parametrize("cut", [1, 20, 50])
def test_a_chunk_that_was_cut_off_is_overlooked_and_the_next_one_counts(cut: int, tmp_path: Path) -> None:
    cache = written(tmp_path, "abc", [0], [1])
    cache.path.write_bytes(cache.path.read_bytes()[:-cut])
    assert cache.read().is_present.tolist() == [True, False, False]
    cache.append(np.array([2]), VALUES[[2]])
    assert cache.read().is_present.tolist() == [True, False, True]


def test_rows_of_a_larger_dataset_count_as_absent(tmp_path: Path) -> None:
    written(tmp_path, "abc", [0], [2])
    assert ReferenceCache(tmp_path, "abc", 2).read().is_present.tolist() == [True, False]


def write_second_version(folder: Path, payload: bytes) -> Path:
    path = folder / "abc.v2.ref_logps"
    path.write_bytes(hashlib.sha256(payload).digest() + payload)
    return path


def test_files_of_the_second_version_are_read_and_added_to(tmp_path: Path) -> None:
    write_second_version(tmp_path, VALUES.astype("<f8").tobytes())
    cache = ReferenceCache(tmp_path, "abc", 3)
    assert np.array_equal(cache.read().values, VALUES) and cache.read().is_present.all()
    cache.append(np.array([1]), VALUES[[0]])
    assert np.array_equal(cache.read().values[1], VALUES[0])


def test_a_damaged_file_of_the_second_version_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_second_version(tmp_path, VALUES.astype("<f8").tobytes())
    path.write_bytes(path.read_bytes()[:-1])
    assert not ReferenceCache(tmp_path, "abc", 3).read().is_present.any()
    assert "abc.v2.ref_logps is damaged: it was written with the SHA-256 checksum" in caplog.text


def test_sums_of_the_first_version_count_as_absent_and_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    payload = VALUES.astype("<f4").tobytes()
    (tmp_path / "abc.ref_logps").write_bytes(hashlib.sha256(payload).digest() + payload)
    cache = ReferenceCache(tmp_path, "abc", 3)
    assert not cache.read().is_present.any()
    (line,) = caplog.messages
    assert "abc.ref_logps was written by an earlier version" in line and "computing the reference again" in line
    cache.append(ROWS, VALUES)
    caplog.clear()
    assert cache.read().is_present.all() and not caplog.messages


def test_values_of_float32_are_written_as_what_they_are(tmp_path: Path) -> None:
    values = np.array([[-0.1, -1234.567]], np.float32)
    cache = ReferenceCache(tmp_path, "abc", 1)
    cache.append(np.array([0]), values)
    assert np.array_equal(cache.read().values, values)


def test_a_full_disk_leaves_the_chunks_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, write = written(tmp_path, "abc", [0]), os.write
    calls: list[int] = []

    def filling_up(descriptor: int, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:30])

    monkeypatch.setattr(os, "write", filling_up)
    with pytest.raises(WriteError, match=r"abc\.v3\.ref_logps cannot be written: No space left on device; free space"):
        cache.append(np.array([1]), VALUES[[1]])
    monkeypatch.undo()
    cache.append(np.array([2]), VALUES[[2]])
    assert cache.read().is_present.tolist() == [True, False, True]


def write_set(prefix: Path, response: int) -> str:
    row = {name: [1, 2, response] if "ids" in name else [IGNORE_INDEX, IGNORE_INDEX, response] for name in PAIR_COLUMNS}
    with writing(prefix, PAIR_COLUMNS) as writer:
        writer.append(row)
        writer.commit({})
    return str(prefix)


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    return DataConfig(data_path=write_set(tmp_path / "pairs", 7), seq_length=16)


def test_the_fingerprint_follows_the_tokens_and_not_where_they_lie(data: DataConfig, tmp_path: Path) -> None:
    elsewhere = replace(data, data_path=write_set(tmp_path / "moved" / "other", 7))
    changed = replace(data, data_path=write_set(tmp_path / "changed", 8))
    assert data_fingerprint(elsewhere) == data_fingerprint(data)
    assert data_fingerprint(changed) != data_fingerprint(data)


def test_the_fingerprint_follows_the_cuts(data: DataConfig) -> None:
    variants = [data, replace(data, seq_length=15), replace(data, truncation="keep_start")]
    assert len({data_fingerprint(variant) for variant in variants}) == 3


def test_the_fingerprint_follows_the_order_of_several_sets(data: DataConfig, tmp_path: Path) -> None:
    other = write_set(tmp_path / "other", 9)
    orders = [f"{data.data_path},{other}", f"{other},{data.data_path}", data.data_path]
    assert len({data_fingerprint(replace(data, data_path=path)) for path in orders}) == 3


def test_what_does_not_change_the_tokens_does_not_change_the_fingerprint(data: DataConfig) -> None:
    assert data_fingerprint(replace(data, no_shuffle=True, split="90,10,0")) == data_fingerprint(data)


def test_the_files_count_and_not_what_is_noted_beside_them(data: DataConfig, tmp_path: Path) -> None:
    noted = meta_path(data.data_path).read_text()
    before = data_fingerprint(data)
    write_set(tmp_path / "pairs", 8)
    meta_path(data.data_path).write_text(noted)
    assert data_fingerprint(data) != before


def test_sets_of_other_programs_are_distinguished_by_their_content(data: DataConfig, tmp_path: Path) -> None:
    same, changed = write_set(tmp_path / "same", 7), write_set(tmp_path / "changed", 8)
    prints = []
    for path in (data.data_path, same, changed):
        meta_path(path).unlink()
        prints.append(data_fingerprint(replace(data, data_path=path)))
    assert prints[0] == prints[1] != prints[2]
