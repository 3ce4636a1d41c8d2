"""The reference cache: exact round trip, damage counts as absence, the fingerprint follows content and cuts."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mindspeed_dpo.config.settings.data import DataConfig
from mindspeed_dpo.data.datasets.reference_cache import ReferenceCache, data_fingerprint
from mindspeed_dpo.data.indexed.column_group import IGNORE_INDEX, PAIR_COLUMNS, meta_path, writing

VALUES = np.array([[-1.5, -2.25], [0.0, -1e-300], [-60085.123456789, -7.0]], np.float64)


def test_values_come_back_bit_by_bit(tmp_path: Path) -> None:
    ReferenceCache(tmp_path / "new" / "folder", "abc", 3).write(VALUES)
    actual = ReferenceCache(tmp_path / "new" / "folder", "abc", 3).read()
    assert actual is not None and actual.dtype == np.float64
    assert actual.tobytes() == VALUES.tobytes() and actual.shape == (3, 2)


def test_nothing_but_the_finished_file_is_left(tmp_path: Path) -> None:
    ReferenceCache(tmp_path, "abc", 3).write(VALUES)
    assert [path.name for path in tmp_path.iterdir()] == ["abc.v2.ref_logps"]


def test_another_fingerprint_is_another_file(tmp_path: Path) -> None:
    ReferenceCache(tmp_path, "abc", 3).write(VALUES)
    assert ReferenceCache(tmp_path, "abd", 3).read() is None


@pytest.mark.parametrize("place", [0, 31, 32, 40, -1])
def test_a_changed_byte_anywhere_counts_as_absent(place: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = ReferenceCache(tmp_path, "abc", 3)
    cache.write(VALUES)
    content = bytearray(cache.path.read_bytes())
    content[place] ^= 1
    cache.path.write_bytes(content)
    assert cache.read() is None
    assert "abc.v2.ref_logps is damaged; computing the reference again" in caplog.text


@pytest.mark.parametrize("length", [0, 10, 32, 55])
def test_a_shortened_file_counts_as_absent(length: int, tmp_path: Path) -> None:
    cache = ReferenceCache(tmp_path, "abc", 3)
    cache.write(VALUES)
    cache.path.write_bytes(cache.path.read_bytes()[:length])
    assert cache.read() is None


def test_a_file_of_another_number_of_rows_counts_as_absent(tmp_path: Path) -> None:
    ReferenceCache(tmp_path, "abc", 3).write(VALUES)
    assert ReferenceCache(tmp_path, "abc", 2).read() is None


def test_sums_of_the_first_version_count_as_absent_and_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    payload = VALUES.astype("<f4").tobytes()
    (tmp_path / "abc.ref_logps").write_bytes(hashlib.sha256(payload).digest() + payload)
    cache = ReferenceCache(tmp_path, "abc", 3)
    assert cache.read() is None
    (line,) = caplog.messages
    assert "abc.ref_logps was written by an earlier version" in line and "computing the reference again" in line
    cache.write(VALUES)
    caplog.clear()
    assert cache.read() is not None and not caplog.messages


def test_values_of_float32_are_written_as_what_they_are(tmp_path: Path) -> None:
    values = np.array([[-0.1, -1234.567]], np.float32)
    ReferenceCache(tmp_path, "abc", 1).write(values)
    actual = ReferenceCache(tmp_path, "abc", 1).read()
    assert actual is not None and np.array_equal(actual, values)


def test_writing_replaces_a_damaged_file(tmp_path: Path) -> None:
    cache = ReferenceCache(tmp_path, "abc", 3)
    cache.path.write_bytes(b"damaged")
    cache.write(VALUES)
    assert cache.read() is not None


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
