"""Pickles: what checkpoints hold is read, what they should not hold is inert, and nothing takes more than its size."""

from __future__ import annotations

import argparse
import collections
import enum
import io
import os
import pickle
import resource
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.pickle_names import InertObject, PickleError, reject_foreign_objects
from mindspeed_dpo.untrusted.restricted_pickle import parse_pickle
from mindspeed_dpo.untrusted.torch_archive import read_torch_file

PLAIN = {
    "numbers": [0, -1, 255, 256, 65536, 2**31, -(2**40), 2**200, 1.5, float("inf"), True, None],
    "texts": ["", "ä", "x" * 300, "y" * 70000],
    "bytes": [b"", b"a" * 300],
    "sets": [{1, "a"}, frozenset({2}), set()],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "nested": {"a": {"b": [{}, []]}},
    (1, "key"): None,
    7: "seven",
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_of_every_protocol_is_read(protocol: int) -> None:
    value = PLAIN if protocol > 2 else {key: item for key, item in PLAIN.items() if key != "bytes"}
    assert parse_pickle(pickle.dumps(value, protocol)) == value


def test_shared_and_recursive_values_stay_so() -> None:
    value: list[Any] = [[1]]
    value += [value[0], value]
    read = parse_pickle(pickle.dumps(value))
    assert read[0] is read[1] and read[2] is read


def test_namespaces_and_ordered_dictionaries_are_data(tmp_path: Path) -> None:
    state = collections.OrderedDict(a=torch.ones(2))
    state._metadata = {"version": 1}  # type: ignore[attr-defined]  # as torch.nn.Module.state_dict does
    torch.save(
        {"args": argparse.Namespace(x=1), "state": state, "p": torch.nn.Parameter(torch.ones(1))}, tmp_path / "a.pt"
    )
    read = read_torch_file(tmp_path / "a.pt")
    assert vars(read["args"]) == {"x": 1} and torch.equal(read["state"]["a"], torch.ones(2))
    assert torch.equal(read["p"], torch.ones(1))


class Color(enum.Enum):
    """A class that is not part of the package."""

    RED = 1


def test_objects_of_other_classes_are_records_without_life() -> None:
    (read,) = parse_pickle(pickle.dumps([Color.RED]))
    assert isinstance(read, InertObject) and read.name.qualified_name.endswith("Color") and read.args == (1,)
    with pytest.raises(MalformedDataError, match="Color, which is not data"):
        reject_foreign_objects([read], "f", "the list")


def instructions(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


TUPLES = b"K\x01" + b"2\x86" * 60
LIST = b"](" + b"K\x01" * 20_000 + b"eq\x00"
COLLIDING = [(k * (2**61 - 1)).to_bytes(18, "little") for k in range(1, 9000)]
"""Integers with one hash."""
HOSTILE = {
    "bytearray of a number": instructions(b"cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R"),
    "memo index": instructions(b"]r\xff\xff\xff\x7f"),
    "tuples as a key": instructions(b"}", TUPLES, b"K\x01s"),
    "deep tuple as a key": instructions(b"}K\x01", b"\x85" * 200_000, b"K\x01s"),
    "tuples in a set": instructions(b"cbuiltins\nset\n(", TUPLES, b"tR"),
    "tuples in a frozenset": instructions(b"(", TUPLES, b"\x91"),
    "copies of a list": instructions(LIST, b"cbuiltins\nlist\nq\x01" + b"h\x01h\x00\x85R" * 20_000),
    "copies of a state": instructions(
        b"}(" + b"".join(b"X\x05\x00\x00\x00%05dN" % n for n in range(5000)) + b"uq\x00",
        b"cargparse\nNamespace\n)R" + b"h\x00b" * 5000,
    ),
    "colliding integers": instructions(b"}(" + b"".join(b"\x8a\x12%bN" % number for number in COLLIDING) + b"u"),
    "long integer": instructions(b"\x8b\x00\x00\x10\x00" + b"\x7f" * (1 << 20)),
    "text beyond the end": instructions(b"X\xff\xff\xff\xffabc"),
    "bytes beyond the end": instructions(b"\x8e" + b"\xff" * 8),
    "names": instructions(b"".join(b"ca\n%d\n" % n for n in range(20_000))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_small_pickle_takes_little(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        parse_pickle(HOSTILE[name])
    except PickleError as error:
        assert len(str(error)) < 500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02",
        b"\x80\x02.",
        b"\x80\x06N.",
        instructions(b"K\x01K\x02a"),
        instructions(b"a"),
        instructions(b"K\x01b"),
        instructions(b"K\x01K\x02R"),
        instructions(b"K\x01)R"),
        instructions(b"]q\x00h\x07"),
        instructions(b"t"),
        instructions(b"(K\x01u"),
        instructions(b"}(K\x01u"),
        instructions(b"}](s"),
        instructions(b"I5\n"),
        instructions(b"Pid\n"),
        instructions(b"NQ"),
        instructions(b"\x82\x01"),
        instructions(b"ctorch._utils\n_rebuild_tensor_v2\n(KKKKtR"),
        instructions(b"ctorch._utils\n_rebuild_tensor_v2\n}b"),
        instructions(b"cargparse\nNamespace\n)Rq\x00K\x01b"),
        instructions(b"X\x02\x00\x00\x00\xff\xff"),
        instructions(b"c" + b"x" * 5000),
        instructions(b"N\x93"),
    ],
)
def test_a_damaged_pickle_is_refused(content: bytes) -> None:
    with pytest.raises(PickleError):
        parse_pickle(content)


def test_functions_of_the_tables_cannot_be_changed() -> None:
    # BUILD with a pair sets attributes in Python's own unpickler.
    with pytest.raises(PickleError, match="sets the state"):
        parse_pickle(instructions(b"ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01s}\x86b"))


class Command:
    """Pickles as a call of `os.system`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def test_a_call_in_a_pickle_is_a_record_of_it(tmp_path: Path) -> None:
    for protocol in (2, 4, 5):
        read = parse_pickle(pickle.dumps(Command(tmp_path / "called"), protocol))
        assert isinstance(read, InertObject) and read.name.qualified_name.endswith(".system")
    assert not (tmp_path / "called").exists()


def test_a_compressed_archive_is_refused_before_it_is_expanded(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"N0" * (50 << 20) + b"N.")
    with pytest.raises(MalformedDataError, match="compressed or larger"):
        read_torch_file(tmp_path / "a.pt")


def test_a_tensor_that_overlaps_itself_is_refused(tmp_path: Path) -> None:
    """Expanded from one value it would take any amount of memory when it is converted."""
    stored = io.BytesIO()
    torch.save(torch.ones(1).expand(1 << 40), stored)
    (tmp_path / "a.pt").write_bytes(stored.getvalue())
    with pytest.raises(MalformedDataError, match="does not fit its storage"):
        read_torch_file(tmp_path / "a.pt")
