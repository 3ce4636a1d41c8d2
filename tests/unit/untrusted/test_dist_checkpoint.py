"""Distributed checkpoints: what torch writes is read, and metadata that does not describe it is refused."""

from __future__ import annotations

import io
import itertools
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex

from mindspeed_dpo.untrusted.dist_checkpoint import DistCheckpoint
from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.tiling import Box, check_tiling

WEIGHT = torch.arange(24, dtype=torch.float32).reshape(4, 6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of a weight in four chunks, a scalar, an empty tensor and an object."""
    rng = io.BytesIO()
    torch.save([{"host": torch.get_rng_state()}], rng)
    state = {"w": WEIGHT, "scalar": torch.tensor(3), "empty": torch.empty(0, 2), "rng/shard_0_1": rng}
    dcp.save(state, storage_writer=dcp.FileSystemWriter(tmp_path, thread_count=1), no_dist=True)
    change(tmp_path, lambda metadata: divide(metadata, tmp_path))
    return tmp_path


def change(folder: Path, edit: Callable[[Metadata], object]) -> None:
    """Edit the metadata of a checkpoint."""
    file = folder / ".metadata"
    metadata = pickle.loads(file.read_bytes())
    edit(metadata)
    file.write_bytes(pickle.dumps(metadata))


def divide(metadata: Metadata, folder: Path) -> None:
    """Store the weight again as a grid of four chunks."""
    info = metadata.storage_data.pop(MetadataIndex("w", torch.Size([0, 0])))
    chunks = []
    with (folder / "w.distcp").open("wb") as file:
        for row, column in itertools.product((0, 3), (0, 2)):
            sizes = torch.Size([3 if row == 0 else 1, 2 if column == 0 else 4])
            start = file.tell()
            torch.save(WEIGHT[row : row + sizes[0], column : column + sizes[1]].clone(), file)
            chunks.append(ChunkStorageMetadata(torch.Size([row, column]), sizes))
            index = MetadataIndex("w", chunks[-1].offsets)
            metadata.storage_data[index] = type(info)("w.distcp", start, file.tell() - start)
    metadata.state_dict_metadata["w"].chunks = chunks  # type: ignore[union-attr]


def test_tensors_boxes_and_objects_are_read(folder: Path) -> None:
    checkpoint = DistCheckpoint(folder)
    assert torch.equal(checkpoint.read("w"), WEIGHT)
    for rows, columns in itertools.product(itertools.combinations(range(5), 2), itertools.combinations(range(7), 2)):
        assert torch.equal(checkpoint.read("w", (rows, columns)), WEIGHT[slice(*rows), slice(*columns)])
    assert checkpoint.read("scalar").item() == 3 and checkpoint.read("empty").shape == (0, 2)
    assert checkpoint.read_object("rng/shard_0_1")[0]["host"].dtype == torch.uint8


def chunks(metadata: Metadata) -> list[ChunkStorageMetadata]:
    return metadata.state_dict_metadata["w"].chunks  # type: ignore[union-attr]


def location(metadata: Metadata, row: int, column: int) -> Any:
    return metadata.storage_data[MetadataIndex("w", torch.Size([row, column]))]


def set_chunk(metadata: Metadata, number: int, offsets: tuple[int, int], sizes: tuple[int, int]) -> None:
    """Give a chunk another box, and its bytes the matching index."""
    old = chunks(metadata)[number]
    info = metadata.storage_data.pop(MetadataIndex("w", old.offsets))
    chunks(metadata)[number] = ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))
    metadata.storage_data[MetadataIndex("w", torch.Size(offsets))] = info


def put(target: Any, name: str, value: Any) -> None:
    object.__setattr__(target, name, value)


EDITS: dict[str, tuple[Callable[[Metadata], object], str]] = {
    "a chunk twice": (lambda m: chunks(m).append(chunks(m)[1]), "w is incomplete or stored twice"),
    "a chunk in place of another": (
        lambda m: chunks(m).__setitem__(1, chunks(m)[0]),
        "w is incomplete or stored twice",
    ),
    "a chunk missing": (lambda m: chunks(m).pop(), "w is incomplete or stored twice"),
    "no chunk": (lambda m: chunks(m).clear(), "w is incomplete or stored twice"),
    "an overlap and a gap": (lambda m: set_chunk(m, 3, (3, 1), (1, 4)), "two of its chunks overlap"),
    "a chunk outside": (lambda m: set_chunk(m, 3, (3, 3), (1, 4)), "not within the shape"),
    "a shape that is too large": (lambda m: put(m.state_dict_metadata["w"], "size", torch.Size([5, 6])), "incomplete"),
    "another rank of shape": (
        lambda m: put(m.state_dict_metadata["w"], "size", torch.Size([24])),
        "not within the shape",
    ),
    "a huge shape": (lambda m: put(m.state_dict_metadata["w"], "size", (1 << 40, 1 << 40)), "incomplete"),
    "a huge chunk": (lambda m: set_chunk(m, 0, (0, 0), (1 << 40, 2)), "too few for"),
    "a negative offset": (lambda m: put(chunks(m)[0], "offsets", (0, -1)), "not a list of sizes"),
    "shared bytes": (lambda m: put(location(m, 3, 2), "offset", location(m, 0, 2).offset), "share bytes of 'w.distcp'"),
    "bytes beyond the file": (lambda m: put(location(m, 3, 2), "length", 1 << 40), "are needed"),
    "another file": (lambda m: put(location(m, 3, 2), "relative_path", "../w.distcp"), "lacks '../w.distcp'"),
    "a file that is absent": (lambda m: put(location(m, 3, 2), "relative_path", "x"), "lacks 'x'"),
    "a place missing": (lambda m: m.storage_data.pop(MetadataIndex("w", torch.Size([3, 2]))), r"w at \[3, 2\]"),
    "another dtype": (lambda m: put(m.state_dict_metadata["w"].properties, "dtype", torch.bfloat16), "not a tensor of"),
    "no dtype": (lambda m: put(m.state_dict_metadata["w"].properties, "dtype", 5), "w has no dtype"),
    "no tensors": (lambda m: put(m, "state_dict_metadata", [1]), "state_dict_metadata is a list"),
    "no places": (lambda m: put(m, "storage_data", None), "storage_data is a NoneType"),
    "a number as a key": (lambda m: m.state_dict_metadata.__setitem__(5, m.state_dict_metadata["w"]), "not a record"),
    "compressed": (lambda m: put(location(m, 3, 2), "transform_descriptors", ["zstd"]), "stored compressed"),
}


@pytest.mark.parametrize("name", EDITS)
def test_metadata_that_does_not_describe_the_files_is_refused(folder: Path, name: str) -> None:
    edit, words = EDITS[name]
    change(folder, edit)
    with pytest.raises(MalformedDataError, match=words) as error:
        DistCheckpoint(folder).read("w")
    assert str(folder) in str(error.value)


class Command:
    """Pickles as a call of `os.system`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("place", ["metadata", "planner data", "key", "location", "object", "chunk"])
def test_code_anywhere_in_a_checkpoint_is_refused_and_does_not_run(folder: Path, place: str) -> None:
    evil = Command(folder / "called")
    edits: dict[str, Callable[[Metadata], object]] = {
        "metadata": lambda m: put(m, "version", evil),
        "planner data": lambda m: put(m, "planner_data", {"w": [evil]}),
        "key": lambda m: m.state_dict_metadata.__setitem__(evil, m.state_dict_metadata["w"]),  # type: ignore[index]
        "location": lambda m: put(location(m, 3, 2), "relative_path", evil),
        "object": lambda m: store(m, folder, MetadataIndex("rng/shard_0_1"), [evil]),
        "chunk": lambda m: store(m, folder, MetadataIndex("w", torch.Size([3, 2])), [evil]),
    }
    change(folder, edits[place])
    checkpoint = DistCheckpoint(folder)
    with pytest.raises(MalformedDataError, match=r"system, which is not data|not a tensor of"):
        checkpoint.read_object("rng/shard_0_1")
        checkpoint.read("w")
    assert not (folder / "called").exists()


def store(metadata: Metadata, folder: Path, index: MetadataIndex, value: Any) -> None:
    """Store another value at a place."""
    with (folder / "evil.distcp").open("wb") as file:
        torch.save(value, file)
    info = metadata.storage_data[index]
    metadata.storage_data[index] = type(info)("evil.distcp", 0, (folder / "evil.distcp").stat().st_size)


def test_random_grids_tile_and_one_moved_edge_does_not() -> None:
    choose = random.Random(1)
    for _ in range(200):
        cuts = [
            sorted({0, 7, *choose.choices(range(1, 7), k=choose.randrange(3))}) for _ in range(choose.randint(1, 3))
        ]
        boxes: list[Box] = [
            tuple(box) for box in itertools.product(*(list(itertools.pairwise(along)) for along in cuts))
        ]
        shape = (7,) * len(cuts)
        check_tiling(shape, boxes, "w")
        for damaged in (boxes[1:], [*boxes, choose.choice(boxes)], moved(boxes, choose)):
            with pytest.raises(MalformedDataError, match=r"^w"):
                check_tiling(shape, damaged, "w")


def moved(boxes: list[Box], choose: random.Random) -> list[Box]:
    """The boxes with one of them a step aside: outside of the shape, or over another one."""
    number = choose.randrange(len(boxes))
    (start, stop), *rest = boxes[number]
    step = 1 if start == 0 else -1
    return [*boxes[:number], ((start + step, stop + step), *rest), *boxes[number + 1 :]]
