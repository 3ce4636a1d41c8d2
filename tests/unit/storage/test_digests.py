"""Digests: the same however the bytes arrive, and every changed bit is noticed by whoever reads the part it is in."""

from __future__ import annotations

import errno
import io
from pathlib import Path

import pytest
import torch

from mindspeed_dpo.storage import digests
from mindspeed_dpo.storage.digests import (
    BlockHasher,
    DamageError,
    DigestingFile,
    FileDigest,
    VerifiedFile,
    file_digest,
    open_verified,
    verify_file,
)

BLOCK = 64


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "BLOCK_BYTES", BLOCK)


def content(size: int) -> bytes:
    return bytes((7 * number + number // 250) % 256 for number in range(size))


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK, 333])
def test_pieces_of_any_length_give_the_digest_of_the_file(size: int, tmp_path: Path) -> None:
    data, found = content(size), set()
    for piece in (1, 7, BLOCK, 1000):
        with DigestingFile(tmp_path / "file") as file:
            for start in range(0, size, piece):
                file.write(data[start : start + piece])
        assert (tmp_path / "file").read_bytes() == data
        found.add(file.digest)
    assert found == {file_digest(tmp_path / "file")}
    (digest,) = found
    assert (digest.num_bytes, len(digest.blocks)) == (size, -(-size // BLOCK))
    assert FileDigest.from_json(digest.as_json()) == digest
    verify_file(tmp_path / "file", digest)


@pytest.mark.parametrize("start", [0, 5, BLOCK, 2 * BLOCK - 1, 300])
@pytest.mark.parametrize("count", [0, 1, BLOCK, 3 * BLOCK, 1000])
def test_any_range_can_be_read(start: int, count: int, tmp_path: Path) -> None:
    data = content(333)
    (tmp_path / "file").write_bytes(data)
    with VerifiedFile(tmp_path / "file", file_digest(tmp_path / "file")) as file:
        file.seek(start)
        assert file.read(count) == data[start : start + count] and file.tell() == start + len(data[start:][:count])
        assert file.seek(-3, io.SEEK_END) == 330 and file.read() == data[330:]


@pytest.mark.parametrize("position", [0, 63, 64, 200, 332])
def test_a_changed_bit_is_noticed_by_a_reader_of_its_block_only(position: int, tmp_path: Path) -> None:
    path, data = tmp_path / "file", bytearray(content(333))
    path.write_bytes(data)
    digest = file_digest(path)
    data[position] ^= 1
    path.write_bytes(data)
    block = position // BLOCK
    first, last = block * BLOCK, min(333, (block + 1) * BLOCK) - 1
    expected = digest.blocks[block]
    with open_verified(path, digest) as file:
        for start in range(0, 333, BLOCK):
            file.seek(start)
            if start != first:
                file.read(BLOCK)
                continue
            with pytest.raises(DamageError, match=rf"file is damaged: bytes {first} to {last} .* {expected} and now"):
                file.read(1)
    with pytest.raises(DamageError):
        verify_file(path, digest)


def test_a_shorter_or_longer_file_is_damaged_and_a_missing_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content(100))
    digest = file_digest(path)
    for size in (99, 101):
        path.write_bytes(content(size))
        with pytest.raises(DamageError, match=f"100 bytes were written and {size} are there"):
            verify_file(path, digest)
    path.unlink()
    with pytest.raises(DamageError, match="file is missing"):
        verify_file(path, digest)


def test_torch_writes_and_reads_through_them(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(1000.0), "b": torch.ones(3, dtype=torch.bfloat16)}
    with DigestingFile(tmp_path / "tensors.pt") as file:
        torch.save(tensors, file)
    assert file.digest == file_digest(tmp_path / "tensors.pt")
    with open_verified(tmp_path / "tensors.pt", file.digest) as stream:
        read = torch.load(stream, weights_only=True)
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_a_failed_write_stays_known_where_torch_replaces_it(tmp_path: Path) -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    file = DigestingFile(tmp_path / "file", Full())
    with pytest.raises((OSError, RuntimeError)):
        torch.save(torch.ones(100), file)
    assert file.error is not None and file.error.errno == errno.ENOSPC
    assert file.error.filename == str(tmp_path / "file")


def test_the_digest_does_not_depend_on_when_it_is_asked_for() -> None:
    hasher, other = BlockHasher(), BlockHasher()
    for piece in (content(50), content(50)):
        hasher.update(memoryview(piece))
        hasher.result()
    other.update(memoryview(content(50) + content(50)))
    assert hasher.result() == other.result()
