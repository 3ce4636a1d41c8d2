"""JSON: values by type, and limits that hold whatever is in the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mindspeed_dpo.untrusted.errors import MalformedDataError, reraised_as
from mindspeed_dpo.untrusted.json_object import JsonObject
from mindspeed_dpo.untrusted.json_text import (
    parse_json,
    parse_json_object,
    read_json,
    read_json_object,
)
from mindspeed_dpo.untrusted.text_files import read_bytes


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": 1', "line 1, column 8: invalid JSON"),
        (b'{"a": 1}\n{}', "line 2, column 1: invalid JSON: text after the value"),
        (b"\xff\xfe{}", "not UTF-8 text"),
        (b"[" * 200_000, "nested more than 100 deep"),
        (b"[" * 101 + b"]" * 101, "nested more than 100 deep"),
        (b'{"a":' * 400 + b"1" + b"}" * 400, "nested more than 100 deep"),
        (b'{"a": ' + b"7" * 301 + b"}", "301 digits"),
        (b'{"a": 1, "b": 2, "a": 1}', "an object has the key 'a' twice"),
        (b'{"a": [{"b": null, "b": null}]}', "an object has the key 'b' twice"),
        (b"[1, 2]", "must hold a JSON object, got a list"),
        (b"null", "must hold a JSON object, got null"),
        (b"", "invalid JSON"),
    ],
    ids=[
        "cut",
        "two values",
        "not text",
        "deep",
        "a little too deep",
        "deep objects",
        "digits",
        "a key twice",
        "a key twice within",
        "list",
        "null",
        "empty",
    ],
)
def test_what_is_no_object_is_refused_by_the_name_of_the_file(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(MalformedDataError, match=words) as error:
        read_json_object(path)
    assert str(error.value).startswith(str(path))


def test_what_is_within_the_limits_is_read_as_json_does(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True, "ä \U0001f600"], "n": int("9" * 300), "deep": json.loads("[" * 98 + "]" * 98)}
    path = tmp_path / "a.json"
    path.write_text("\ufeff" + json.dumps(value), encoding="utf-8")
    assert read_json(path) == value


Reader = Callable[[JsonObject], Any]
READERS: dict[str, tuple[Reader, Any, list[Any]]] = {
    "integer": (lambda o: o.integer("k"), 64, [64.5, True, "64", [], 2**63, float("inf"), float("nan")]),
    "at least": (lambda o: o.integer("k", minimum=1), 1, [0, -5]),
    "number": (lambda o: o.number("k"), 0.5, ["nan", float("nan"), float("inf"), False, {}]),
    "text": (lambda o: o.text("k"), "ä", [1, None, ["a"], "\ud83d", "a\0"]),
    "boolean": (lambda o: o.boolean("k"), False, [0, "false", None]),
    "section": (lambda o: o.section("k").plain(), {"a": 1}, [[], "a", 1]),
    "sequence": (lambda o: o.sequence("k"), [1, "a"], [{}, "a", 1]),
    "texts": (lambda o: o.texts("k"), ["a"], [[1], "a", {}]),
    "integers": (lambda o: o.integers("k"), [1], [[1.5], 1]),
    "objects": (lambda o: [item.plain() for item in o.objects("k")], [{}], [[1], [[]], {}]),
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_an_item_has_the_type_that_is_asked_for_or_is_refused_by_its_key(name: str) -> None:
    read, good, bad = READERS[name]
    value = read(JsonObject({"k": good}, "f.json"))
    assert value == (tuple(good) if isinstance(value, tuple) else good)
    for other in bad:
        with pytest.raises(MalformedDataError, match=r"f\.json.* '?k\b"):
            read(JsonObject({"k": other}, "f.json"))
    with pytest.raises(MalformedDataError, match="lacks 'k'"):
        read(JsonObject({}, "f.json"))


def test_an_absent_item_has_its_default_and_a_nested_one_its_path() -> None:
    items = parse_json_object('{"a": {"b": {"c": "x"}}, "n": null, "list": [{}, {"d": 1.5}]}', "f.json")
    assert (items.integer("n", 3), items.text("z", None), items.boolean("z", True)) == (3, None, True)
    with pytest.raises(MalformedDataError, match=r"^f\.json: a: b: c must be an integer, got a text, 'x'"):
        items.section("a").section("b").integer("c")
    with pytest.raises(MalformedDataError, match=r"^f\.json: list\[1\]: d must be an integer"):
        items.objects("list")[1].integer("d")


def test_errors_can_be_printed_anywhere() -> None:
    with pytest.raises(MalformedDataError) as error:
        JsonObject({"k": ["\ud83d", "ä"][0]}, "f.json").integer("k")
    assert str(error.value).encode("ascii")


def test_size_and_kind_of_a_file_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(11))
    with pytest.raises(MalformedDataError, match="more than 10 bytes"):
        read_bytes(tmp_path / "a", 10)
    with pytest.raises(MalformedDataError, match="is a folder, where a file is expected"):
        read_bytes(tmp_path)
    with pytest.raises(MalformedDataError, match="is no regular file, where a file is expected"):
        read_bytes(Path("/dev/zero"))


def test_the_error_of_a_caller_carries_sentence_and_advice() -> None:
    class OtherError(ValueError):
        pass

    with pytest.raises(OtherError, match=r"^f: .* JSON.*; write it again$"), reraised_as(OtherError, "write it again"):
        parse_json("[", "f")
