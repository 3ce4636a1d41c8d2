"""Digests: the same however the bytes arrive, and every changed bit is noticed when the part it is in is read."""

from __future__ import annotations

import errno
import io
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from mindspeed_dpo.storage import digest_verification, digesting_file, digests
from mindspeed_dpo.storage.digest_verification import BlockVerifier, verify_file
from mindspeed_dpo.storage.digesting_file import DigestingFile
from mindspeed_dpo.storage.digests import BlockHasher, DamageError, digests_from_json, file_digest

BLOCK = 64


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (digests, digest_verification):
        monkeypatch.setattr(module, "BLOCK_BYTES", BLOCK)


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
    assert digests_from_json({"file": digest.as_json()}) == {"file": digest}
    verify_file(tmp_path / "file", digest)


def test_large_writes_are_digested_and_written_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece is digested before it is written, so that the second reading of it finds it in the cache."""
    data, calls = content(333), []
    update, write = BlockHasher.update, DigestingFile._write

    def updating(hasher: BlockHasher, piece: memoryview) -> None:
        calls.append(("digest", len(piece)))
        update(hasher, piece)

    def writing(file: DigestingFile, piece: memoryview) -> None:
        calls.append(("write", len(piece)))
        write(file, piece)

    monkeypatch.setattr(digesting_file, "PIECE_BYTES", 100)
    monkeypatch.setattr(BlockHasher, "update", updating)
    monkeypatch.setattr(DigestingFile, "_write", writing)
    # The caller's memory, which is reused after each write.
    part = bytearray(111)
    with DigestingFile(tmp_path / "file") as file:
        for start in range(0, 333, len(part)):
            part[:] = data[start : start + len(part)]
            assert file.write(part) == 111
    monkeypatch.undo()
    monkeypatch.setattr(digests, "BLOCK_BYTES", BLOCK)
    assert file.digest == file_digest(tmp_path / "file") and (tmp_path / "file").read_bytes() == data
    assert calls == [("digest", 100), ("write", 100), ("digest", 11), ("write", 11)] * 3


@pytest.mark.parametrize("position", [0, 63, 64, 200, 332])
def test_a_changed_bit_is_noticed_by_a_reader_of_its_block_only(position: int, tmp_path: Path) -> None:
    path, data = tmp_path / "file", bytearray(content(333))
    path.write_bytes(data)
    digest = file_digest(path)
    data[position] ^= 1
    path.write_bytes(data)
    block = position // BLOCK
    first, last = block * BLOCK, min(333, (block + 1) * BLOCK) - 1
    said = rf"file is damaged: bytes {first} to {last} .* {digest.blocks[block]} and now"
    for start in range(0, 333, 5):
        for count in (0, 1, BLOCK, 150):
            end = min(333, start + count)
            touches = count > 0 and start // BLOCK <= block <= (end - 1) // BLOCK
            with pytest.raises(DamageError, match=said) if touches else nullcontext():
                BlockVerifier(path, digest, 333).check(start, end - start, lambda at, size: bytes(data[at : at + size]))
    with pytest.raises(DamageError):
        verify_file(path, digest)


def test_a_block_is_read_once_however_many_parts_it_has(tmp_path: Path) -> None:
    path, data, read = tmp_path / "file", content(333), []
    path.write_bytes(data)
    verifier = BlockVerifier(path, file_digest(path), 333)

    def reading(start: int, count: int) -> bytes:
        read.append((start, count))
        return data[start : start + count]

    for start in range(0, 333, 10):
        verifier.check(start, min(10, 333 - start), reading)
    assert read == [(start, min(BLOCK, 333 - start)) for start in range(0, 333, BLOCK)]


@pytest.mark.parametrize(
    "values",
    [[], {"a": 1}, {"a": {"num_bytes": 5}}, {"a": {"num_bytes": 5, "xxh3_64": 7}}, {"/a": {}},
     {"a": {"num_bytes": 5, "xxh3_64": ""}}, {"a": {"num_bytes": -1, "xxh3_64": ""}},
     {"../a": {"num_bytes": 0, "xxh3_64": ""}}],
)  # fmt: skip
def test_what_is_no_digest_is_damage(values: object) -> None:
    with pytest.raises(DamageError):
        digests_from_json(values)


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


def test_torch_writes_through_them(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(1000.0), "b": torch.ones(3, dtype=torch.bfloat16)}
    with DigestingFile(tmp_path / "tensors.pt") as file:
        torch.save(tensors, file)
    assert file.digest == file_digest(tmp_path / "tensors.pt")
    read = torch.load(tmp_path / "tensors.pt", weights_only=True)
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
