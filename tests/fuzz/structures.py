"""Mutations that know a format: values in JSON and YAML, instructions in pickles, members of archives."""

from __future__ import annotations

import gzip
import io
import json
import pickletools
import random
import zipfile
import zlib
from typing import Any

import yaml

from mindspeed_dpo.untrusted.yaml_text import parse_yaml
from tests.fuzz.mutations import EXTREMES, Mutation, mutate


def odd_value(choose: random.Random) -> Any:
    """A value that few readers expect."""
    return choose.choice(ODD_VALUES)


def _nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 64.5, 1e308, -1e-300, float("nan"), float("inf"), 2**31, 2**63, 10**30, 10**299,
    10**400, "", "64", "nan", "\ud83d", "a\0b", "../x", "/", "x" * 3000, [], {}, [[]], {"": None}, [None, 1, "a"],
    {"a": {"b": 1}}, _nested(90),
)  # fmt: skip


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every container and key within a value; what aliases repeat is visited once, as they may multiply or loop."""
    places, stack, seen = [], [value], set()
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        if isinstance(item, dict | list):
            seen.add(id(item))
        children = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
        for key, child in children:
            places.append((item, key))
            stack.append(child)
    return places


def change_value(value: Any, choose: random.Random) -> Any:
    """Replace, delete, rename or repeat one item of a tree of plain values."""
    places = _places(value)
    if not places or choose.random() < 0.03:
        return odd_value(choose)
    container, key = choose.choice(places)
    action = choose.randrange(4)
    if action == 1:
        del container[key]
    elif action == 2 and isinstance(container, dict):
        container[choose.choice(("", "x", "\ud83d", "id", "step"))] = container.pop(key)
    elif action == 3:
        container[key] = choose.choice(([container[key]] * 3, {"x": container[key]}, str(container[key])))
    else:
        container[key] = odd_value(choose)
    return value


def json_value(data: bytes, choose: random.Random) -> bytes:
    """Change one value of a JSON text, or of one line of JSON lines."""
    lines = [data] if data.count(b"\n{") == 0 else data.split(b"\n")
    at = choose.randrange(len(lines))
    try:
        lines[at] = _dumped(change_value(json.loads(lines[at]), choose))
    except (ValueError, RecursionError):
        return data
    return b"\n".join(lines)


def _dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True).encode()


def json_snippet(data: bytes, choose: random.Random) -> bytes:
    """Insert a piece of JSON that is hard to read."""
    pieces = (
        b"[" * 100_000,
        b'{"a":' * 5000,
        b"1" * 5000,
        b"NaN",
        b"1e999",
        b'"\\ud83d"',
        b"[" * 300 + b"]" * 300,
        b"\xff",
        b"{}",
    )
    places = [at + 1 for at, byte in enumerate(data) if byte in b":,["] or [0]
    at = choose.choice(places)
    return data[:at] + choose.choice(pieces) + (b"," if choose.random() < 0.5 else b"") + data[at:]


def yaml_value(data: bytes, choose: random.Random) -> bytes:
    """Change one value of a YAML text."""
    try:
        # Aliases may already stand for more than memory holds, from a mutation before.
        value = parse_yaml(data.decode(), "the file")
        return yaml.safe_dump(change_value(value, choose), allow_unicode=False).encode()
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, AttributeError, OverflowError):
        return data


def yaml_snippet(data: bytes, choose: random.Random) -> bytes:
    """Insert lines of YAML that are hard to read."""
    laughs = b"".join(b"x%d: &x%d [%s]\n" % (n, n, b", ".join([b"*x%d" % (n - 1)] * 9)) for n in range(1, 12))
    pieces = (
        b"x0: &x0 [a]\n" + laughs, b"a: &a [*a]\n", b"a: " + b"[" * 2000 + b"]" * 2000 + b"\n",
        b"n: " + b"1" * 5000 + b"\n", b"n: " + b"1:" * 5000 + b"1\n",
        b"e: !!python/object/apply:os.system ['true']\n", b"d: 2026-13-45\n", b"? [a]\n: 1\n", b"i: ${i}\n",
        b"i: ${oc.env:NOBODY}\n", b"i: ${\n", b"defaults: 5\n", b"defaults: [5]\n", b"defaults: [{a: 1, b: 2}]\n",
        b"defaults: [{model: {x: 1}}]\n", b"<<: 1\n", b"? \n", b"\x00\n", b"\xff\n", b"%YAML 9.9\n", b"---\n",
        b"b: !!binary '\xc3'\n", b"defaults: [model: [tiny, nothing]]\n", b"t: !!timestamp x\n", b"s: !!set [a]\n",
        b"i: !!int x\n", b"f: !!float x\n",
    )  # fmt: skip
    lines = data.split(b"\n")
    at = choose.randrange(len(lines) + 1)
    return b"\n".join([*lines[:at], choose.choice(pieces).rstrip(b"\n"), *lines[at:]])


def yaml_interpolation(data: bytes, choose: random.Random) -> bytes:
    """Add values that refer to each other: many times, in circles, in lists, or to what is not there."""
    length, times = choose.choice((2, 12, 40)), choose.choice((1, 2, 3))
    formats = (
        "'{}'".format("${{{0}}}" * times), "[{}]".format(", ".join(["'${{{0}}}'"] * times)),
        "{{a: '${{{0}}}', b: '${{{0}}}'}}", "'${{z${{{0}}}}}'", "'${{oc.decode:${{{0}}}}}'",
    )  # fmt: skip
    written = choose.choice(formats)
    firsts = ("1", "x" * 100, "[a, b]", f"'${{z{length - 1}}}'", "'${training}'", "'${nothing}'", "'${.z0}'")
    first = choose.choice(firsts)
    lines = [f"z{n}: {written.format(f'z{n - 1}')}".encode() for n in range(1, length)]
    choose.shuffle(lines)
    return b"\n".join([data.rstrip(b"\n"), f"z0: {first}".encode(), *lines]) + b"\n"


_INSTRUCTIONS = (
    b"]", b"}", b")", b"(", b"0", b"1", b"2", b"N", b"a", b"e", b"s", b"u", b"b", b"R", b"\x81", b"\x85", b"\x87",
    b"t", b"\x8f", b"\x90", b"\x91", b"\x93", b"\x94", b"Q", b"q\x00", b"h\x00", b"r\xff\xff\xff\x7f",
    b"j\xff\xff\xff\xff", b"l", b"d", b"\x92", b"J\xff\xff\xff\x7f", b"\x8a\xff", b"\x8b\xff\xff\xff\x7f",
    b"X\xff\xff\xff\xff", b"\x8e" + b"\xff" * 8, b"\x96" + b"\xff" * 8, b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
    b"G" + b"\x7f\xf8" + bytes(6), b"X\x03\x00\x00\x00\xed\xa0\xbd", b"cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R",
    b"cos\nsystem\n\x8c\x04true\x85R", b"cbuiltins\neval\n\x8c\x011\x85R", b"cbuiltins\nlist\nh\x00\x85R",
    b"cbuiltins\nset\nh\x00\x85R", b"ctorch\nSize\nh\x00\x85R", b"\x85" * 3000, b"\x86" * 30,
    b"2\x86" * 40 + b"K\x01s", b"2\x86" * 40 + b"}q\x01h\x01K\x01s", b"ccollections\nOrderedDict\n)R",
    b"cargparse\nNamespace\n)R", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n",
    b"ccopyreg\n_reconstructor\n", b"i", b"P1\n", b"I5\n", b"\x82\x01",
)  # fmt: skip


def pickle_instruction(data: bytes, choose: random.Random) -> bytes:
    """Insert, delete, repeat or swap instructions of a pickle."""
    try:
        bounds = [position for _, _, position in pickletools.genops(data) if position is not None]
    except (ValueError, AttributeError, IndexError, KeyError, UnicodeDecodeError, EOFError):
        return data
    bounds.append(len(data))
    at, end = sorted(choose.choices(range(len(bounds)), k=2))
    end = min(end, at + choose.choice((1, 1, 2, 8)))
    before, piece, after = data[: bounds[at]], data[bounds[at] : bounds[end]], data[bounds[end] :]
    action = choose.randrange(4)
    if action == 0:
        return before + after
    if action == 1:
        return before + piece * choose.choice((2, 2, 3, 200)) + after
    if action == 2:
        return before + choose.choice(_INSTRUCTIONS) + piece + after
    return before + choose.choice(_INSTRUCTIONS) + after


def archive_member(data: bytes, choose: random.Random) -> bytes:
    """Write a zip archive again with one member changed, missing, twice or compressed."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except (zipfile.BadZipFile, zlib.error, ValueError, KeyError, OSError, EOFError, NotImplementedError, RuntimeError):
        return data
    if not members:
        return data
    pickles = [number for number, (name, _) in enumerate(members) if name.endswith("data.pkl")]
    at = choose.choice(pickles) if pickles and choose.random() < 0.7 else choose.randrange(len(members))
    name, content = members[at]
    action = choose.randrange(8)
    if action == 0:
        del members[at]
    elif action == 1:
        members.append((name, mutate(content, choose)))
    elif action == 2:
        members[at] = (choose.choice(("x", "archive/data/0", "/", name + "x", "../" + name)), content)
    else:
        members[at] = (name, mutate(content, choose, (pickle_instruction,)))
    written = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if choose.random() < 0.1 else zipfile.ZIP_STORED
    with zipfile.ZipFile(written, "w", method) as archive:
        for member, bytes_ in members:
            archive.writestr(member, bytes_)
    return written.getvalue()


def within_gzip(inner: tuple[Mutation, ...]) -> Mutation:
    """Change what is compressed."""

    def change(data: bytes, choose: random.Random) -> bytes:
        try:
            content = gzip.decompress(data)
        except (OSError, EOFError, ValueError, zlib.error):
            return data
        return gzip.compress(mutate(content, choose, inner), 1)

    return change


def word(data: bytes, choose: random.Random) -> bytes:
    """Change a 32-bit word a little or to an extreme, as sizes and offsets of binary formats go bad."""
    at = choose.randrange(max(1, len(data) // 4)) * 4
    old = int.from_bytes(data[at : at + 4], "little")
    new = choose.choice((old + 1, old - 1, old * 2, old + 8, choose.choice(EXTREMES))) & 0xFFFFFFFF
    return data[:at] + new.to_bytes(4, "little") + data[at + 4 :]


def header_text(data: bytes, choose: random.Random) -> bytes:
    """Change the JSON header of a safetensors file, with its length set right."""
    length = int.from_bytes(data[:8], "little")
    header = choose.choice((json_value, json_snippet))(data[8 : 8 + length], choose)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]
