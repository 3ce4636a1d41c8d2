"""Raw files: every format gives the same rows, and what cannot be read names the file and the row."""

from __future__ import annotations

import csv
import gzip
import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from mindspeed_dpo.data.preprocessing import csv_rows, json_document, json_rows, text_lines
from mindspeed_dpo.data.preprocessing.input_sources import find_input
from mindspeed_dpo.data.preprocessing.readers import InputError, read_file
from mindspeed_dpo.data.preprocessing.settings import PreprocessSettings
from mindspeed_dpo.data.tokenization.examples import RowDropped
from mindspeed_dpo.untrusted import gzip_stream

ROWS: list[dict[str, Any]] = [
    {"question": "one\ntwo, three", "answer": 'said "hi"'},
    {"question": "四五", "answer": "1"},
]


def write(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    kind = path.name.partition(".")[2]
    if kind == "json":
        path.write_text("\n  " + json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    elif kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in rows).encode()))
    elif kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif kind in ("file.arrow", "stream.arrow"):
        table = pyarrow.Table.from_pylist(rows)
        make = pyarrow.ipc.new_file if kind == "file.arrow" else pyarrow.ipc.new_stream
        with make(path, table.schema) as writer:
            writer.write_table(table)
    elif kind == "csv":
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("kind", ["json", "jsonl", "jsonl.gz", "parquet", "file.arrow", "stream.arrow", "csv"])
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    assert list(read_file(write(tmp_path / f"rows.{kind}"))) == ROWS


def test_text_files_give_a_row_per_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("one\n\ntwo\n")
    assert list(read_file(path)) == [{"text": "one"}, {"text": "two"}]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.json", '[{"a": 1},\n {"a": 2},\n {"a" 3}]', r"a.json, row 3: line 3, column \d+: invalid JSON"),
        ("a.json", '[{"a": 1}\n {"a": 2}]', r"a.json, after row 1: line 2: invalid JSON: expected , or \]"),
        ("a.json", '[{"a": 1}, {"a": ', r"a.json, row 2: line 1"),
        ("a.json", '[{"a": 1}', r"a.json, after row 1: .*expected , or \]"),
        ("a.json", '[{"a": 1}]\nand more', r"a.json, row 2: line 2, column 1: .*; 1 rows were read before it"),
        ("a.json", '[{"a": ' + "[" * 99999, "a.json, row 1: JSON is nested more than 100 deep"),
        ("a.json", "", "a.json is empty"),
        ("a.csv", 'a,b\n1,2\n"3,4\n5,6\n', "a.csv: the quoted text that begins in line 3 does not end"),
        ("a.csv", '"a"b,c\n1,2\n', "a.csv: the header cannot be read"),
        ("a.csv", "a,a\n1,2\n", "a.csv: a column name of the header occurs twice"),
        ("a.parquet", "nonsense", "a.parquet, the file: damaged or truncated"),
        ("a.arrow", "nonsense nonsense nonsense", "a.arrow, the file: damaged or truncated"),
        ("a.jsonl.gz", "nonsense", "a.jsonl.gz, after line 0: damaged or truncated gzip data"),
        ("a.xlsx", "nonsense", "the suffix '.xlsx' is not one of .json, .jsonl"),
    ],
)
def test_what_cannot_be_read_names_file_and_row(tmp_path: Path, name: str, content: str, sentence: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match=sentence):
        list(read_file(path))


def test_a_column_of_a_parquet_file_occurs_once(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    one, other = pyarrow.array(["one"]), pyarrow.array(["other"])
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays([one, other], names=["a", "a"]), path)
    with pytest.raises(InputError, match=r"a.parquet: a column name occurs twice: a, a"):
        list(read_file(path))


@pytest.mark.parametrize("part", ["first", "middle", "end"])
def test_damaged_gzip_names_the_file(tmp_path: Path, part: str) -> None:
    path = tmp_path / "a.jsonl.gz"
    content = bytearray(gzip.compress("".join(json.dumps({"a": f"{n * 7919}"}) + "\n" for n in range(5000)).encode()))
    place = {"first": 20, "middle": len(content) // 2, "end": len(content) - 6}[part]
    content[place : place + 4] = bytes(255 - byte for byte in content[place : place + 4])
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a.jsonl.gz, after line \d+: damaged or truncated gzip data"):
        list(read_file(path))


GOOD, OTHER = {"a": "one"}, {"a": "two", "b": None}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", '[{"a": "one"}] [{"a": "two", "b": null}]'),
        ("a.json", '[{"a": "one"}]\n[{"a": "two", "b": null}]\n'),
        ("a.json", '{"a": "one"}{"a": "two", "b": null}'),
        ("a.json", '{\n  "a": "one"\n}\n{\n  "a": "two",\n  "b": null\n}\n'),
        ("a.json", '[{"a": "one"}, {"a": "two", "b": null},]'),
        ("a.jsonl", '{"a": "one"},\n{"a": "two", "b": null},\n'),
        ("a.jsonl", '\ufeff{"a": "one"}\r\n\r\n{"a": "two", "b": null}'),
        ("a.jsonl", '\ufeff[\n{"a": "one"},\n{"a": "two", "b": null}\n]'),
        ("a.jsonl", '[{"a": "one"}, {"a": "two", "b": null}]'),
    ],
)
def test_every_arrangement_of_json_is_read_to_its_end(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode())
    assert list(read_file(path)) == [GOOD, OTHER]


@pytest.mark.parametrize(
    ("name", "content", "place", "detail"),
    [
        ("a.jsonl", b'{"a": "one"}\n{"a": \n{"a": "two"}', 1, "a.jsonl, line 2"),
        ("a.jsonl", b'{"a": \n{"a": "one"}\n{"a": "two"}', 0, "a.jsonl, line 1"),
        ("a.jsonl", b'{"a": "one"}\n{"a": "caf\xe9"}\n{"a": "two"}', 1, "is not UTF-8 text"),
        ("a.jsonl", b'{"a": "one"}\n[7]\n{"a": "two"}', 1, "expected an object of columns, got int"),
        ("a.jsonl", b'{"a": "one"}\n{"a": ' + b"1" * 5000 + b'}\n{"a": "two"}', 1, "an integer has 5000 digits"),
        ("a.jsonl", b'{"a": "one"}\n{"a": ' + b"[" * 9999 + b'\n{"a": "two"}', 1, "nested more than 100 deep"),
        ("a.json", b'[{"a": "one"}, {"a": "caf\xe9"}, {"a": "two"}]', 1, "a.json, row 2: not UTF-8 text"),
        ("a.json", b'[{"a": "one"}, null, {"a": "two"}]', 1, "a.json, row 2: expected an object of columns"),
        ("a.jsonl", b'{"a": "one"}\n{"a": "x", "b": 1, "a": "y"}\n{"a": "two"}', 1, "an object has the key 'a' twice"),
        ("a.jsonl", b'{"a": "one"} {"a": 1, "a": 1} {"a": "two"}', 1, "an object has the key 'a' twice"),
        (
            "a.json",
            b'[{"a": "one"}, {"b": {"c": 1, "c": 2}}, {"a": "two"}]',
            1,
            "row 2: an object has the key 'c' twice",
        ),
        ("a.json", b'[{"a": "one"}, {"a": ' + b"1" * 5000 + b'}, {"a": "two"}]', 1, "an integer has 5000 digits"),
        ("a.json", b'[{"a": "one"}, ' + b"[" * 200 + b"]" * 200 + b', {"a": "two"}]', 1, "nested more than 100 deep"),
        ("a.csv", b"a\none\n\0\0\0\ntwo\n", 1, "a.csv, line"),
        ("a.csv", b'a\none\n"x\ny\0"\ntwo\n', 1, "a.csv, line"),
        ("a.txt", b"one\n\0\0\0\ntwo\n", 1, "a.txt, line 2: a null character"),
        ("a.csv", b"a\none\ntwo,three\ntwo\n", 1, "a.csv, line 3: 2 values, but the header has 1 columns"),
        ("a.csv", b"a\none\ncaf\xe9\ntwo\n", 1, "a.csv, line 3: not UTF-8 text"),
        ("a.csv", b'a\none\n"x"y\ntwo\n', 1, "a.csv, lines 3 to 3: "),
        ("a.txt", b"one\ncaf\xe9\ntwo\n", 1, "a.txt, line 2 is not UTF-8 text"),
    ],
)
def test_one_bad_row_does_not_cost_the_others(
    tmp_path: Path, name: str, content: bytes, place: int, detail: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    rows = list(read_file(path))
    bad = rows.pop(place)
    assert isinstance(bad, RowDropped) and bad.reason == "unreadable" and detail in bad.detail
    assert [next(iter(row.values())) for row in rows if not isinstance(row, RowDropped)] == ["one", "two"]


@pytest.mark.parametrize("kind", ["csv", "tsv"])
@pytest.mark.parametrize(
    "long", ["x" * 300, '"' + "x\n7,8\n" * 60 + '"', '"' + "x" * 300 + '""\n\n"', '"' + '""' * 200 + '"']
)
def test_a_long_row_of_a_csv_file_costs_itself(
    kind: str, long: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However its quotes and lines are cut, no part of it becomes a row."""
    for size in (1, 7, 64):
        monkeypatch.setattr(csv_rows, "MAX_ROW_BYTES", 100)
        monkeypatch.setattr(csv_rows, "PIECE_CHARACTERS", size)
        path, separator = tmp_path / f"a.{kind}", {"csv": ",", "tsv": "\t"}[kind]
        path.write_text("\n".join(separator.join(pair) for pair in ["ab", "12", (long, "2"), "34"]))
        first, dropped, last = read_file(path)
        assert (first, last) == ({"a": "1", "b": "2"}, {"a": "3", "b": "4"})
        assert isinstance(dropped, RowDropped) and "line 3 has more than" in dropped.detail


def test_quoted_text_without_an_end_is_read_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, "MAX_ROW_BYTES", 1 << 14)
    monkeypatch.setattr(csv_rows, "PIECE_CHARACTERS", 1 << 10)
    path = tmp_path / "a.csv"
    path.write_text('a,b\n1,2\n"' + "x" * (1 << 20) + "\n3,4\n" * 1000)
    tracemalloc.start()
    with pytest.raises(InputError, match="text that begins in line 3 does not end; 1 rows were read before it"):
        list(read_file(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 19, f"{peak} bytes"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.jsonl", "a.json", "a.jsonl.gz"])
def test_text_in_another_encoding_is_refused(name: str, encoding: str, tmp_path: Path) -> None:
    content = '{"a": "b"}\n{"a": "c"}\n'.encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(InputError, match=rf"{name} is UTF-(16|32) text.*; save it as UTF-8"):
        list(read_file(tmp_path / name))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz"])
@pytest.mark.parametrize(
    ("end", "num_dropped"),
    [(b"", 0), (b"\0" * 100_000, 0), (b"garbage" * 20_000, 1), (b"\0" * 70_000 + b"\x1f", 1), ("member", 0)],
)
def test_what_follows_the_members_of_a_gzip_file_costs_nothing_before_it(
    name: str, end: bytes | str, num_dropped: int, tmp_path: Path
) -> None:
    rows = [{"a": "one"}, {"a": "two"}]
    content = gzip.compress((json.dumps(rows) if ".json." in name else "\n".join(map(json.dumps, rows))).encode())
    (tmp_path / name).write_bytes(content + (end if isinstance(end, bytes) else gzip.compress(b" \n")))
    read = list(read_file(tmp_path / name))
    assert read[:2] == rows and len(read) == 2 + num_dropped
    for dropped in read[2:]:
        assert isinstance(dropped, RowDropped) and re.search(r"from byte \d+ on it is no gzip data", dropped.detail)


def test_members_of_a_gzip_file_may_be_cut_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = "".join(json.dumps({"a": number}) + "\n" for number in range(50)).encode()
    members = b"\0\0".join(gzip.compress(content[start : start + 99]) for start in range(0, len(content), 99))
    (tmp_path / "a.jsonl.gz").write_bytes(members)
    for size in (1, 2, 3, 50):
        monkeypatch.setattr(gzip_stream, "_BLOCK_BYTES", size)
        assert [row["a"] for row in read_file(tmp_path / "a.jsonl.gz")] == list(range(50))


@pytest.mark.parametrize("byte", [b"\n", b" ", b"x"])
def test_a_gzip_file_that_unpacks_to_too_much_is_refused(
    byte: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gzip_stream, "FREE_BYTES", 1 << 20)
    monkeypatch.setattr(text_lines, "MAX_EMPTY_LINES", 1 << 30)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(byte * (2 << 20)))
    with pytest.raises(InputError, match=r"a.jsonl.gz, after line \d+: .*it unpacks to more than 500 times its size"):
        list(read_file(tmp_path / "a.jsonl.gz"))


def test_a_file_of_empty_lines_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (text_lines, json_rows):
        monkeypatch.setattr(module, "MAX_EMPTY_LINES", 100)
    (tmp_path / "a.jsonl").write_text("\n" * 100 + '{"a": 1}')
    assert list(read_file(tmp_path / "a.jsonl")) == [{"a": 1}]
    (tmp_path / "a.jsonl").write_text('{"a": 1}' + "\n" * 200)
    with pytest.raises(InputError, match="lines before line 102 are empty"):
        list(read_file(tmp_path / "a.jsonl"))


def test_texts_of_csv_files_stay_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('a,b,c\r\n007,2024-01-01,"x\ny"\r\n\r\nNaN,,true\r\n', newline="")
    assert list(read_file(path)) == [
        {"a": "007", "b": "2024-01-01", "c": "x\ny"},
        {"a": "NaN", "b": "", "c": "true"},
    ]


def data(path: Path, **options: Any) -> Any:
    return find_input(PreprocessSettings(input=str(path), **options))


def test_max_samples_stops_early(tmp_path: Path) -> None:
    assert list(data(write(tmp_path / "a.jsonl"), max_samples=1).rows()) == ROWS[:1]


def test_columns_are_gathered_over_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"a": "1"}, {"a": "2", "b": "3"}])
    assert data(path).columns() == ["a", "b"]


def test_needed_columns_are_searched_beyond_the_first_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"a": "1"}] * 1500 + [{"b": "2"}])
    assert data(path).columns() == ["a"]
    assert data(path).columns(["b"]) == ["a", "b"]
    assert data(path, max_samples=1400).columns(["b"]) == ["a"]


def test_a_file_without_a_readable_row_says_why(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("7\n8\n")
    with pytest.raises(InputError, match=r"has no rows, of 2 none can be read: .*a.jsonl, row 1: expected an object"):
        data(tmp_path / "a.jsonl").columns()


def test_missing_and_empty_inputs_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        data(tmp_path / "nothing.json")
    (tmp_path / "pipe.json").symlink_to("absent")
    with pytest.raises(InputError, match="is a link that leads nowhere, where a file is expected"):
        data(tmp_path / "pipe.json")
    with pytest.raises(InputError, match="has no file with a supported suffix"):
        data(tmp_path)
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(InputError, match="has no rows"):
        data(tmp_path / "none.json").columns()


def test_a_hub_name_that_cannot_be_loaded_gets_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("no way out\nand more")

    monkeypatch.setattr("mindspeed_dpo.data.preprocessing.input_sources.datasets.load_dataset", offline)
    with pytest.raises(
        InputError, match=r"some/data is not an existing file or folder and could not be loaded .*: no way out$"
    ):
        find_input(PreprocessSettings(input="some/data", cache_dir=str(tmp_path))).columns()


def test_a_hub_name_is_loaded_with_its_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def load(path: str, **options: Any) -> datasets.Dataset:
        seen.update(options, path=path)
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr("mindspeed_dpo.data.preprocessing.input_sources.datasets.load_dataset", load)
    (tmp_path / "params.json").write_text('{"name": "subset", "split": "test"}')
    options = {"cache_dir": "~/x", "hf_datasets_params": str(tmp_path / "params.json"), "streaming": True}
    raw = find_input(PreprocessSettings(input="some/data", **options))
    assert list(raw.rows()) == ROWS
    assert raw.columns() == list(ROWS[0])
    assert list(raw.rows(["answer", "other"])) == [{"answer": row["answer"]} for row in ROWS]
    assert (seen["path"], seen["name"], seen["split"], seen["streaming"]) == ("some/data", "subset", "test", True)
    assert seen["cache_dir"] == str(Path.home() / "x")


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_rows_are_the_same_wherever_a_document_is_cut(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also within characters, escapes, numbers and literals."""
    rows = [{"a": "ä\U0001f600\n", "b": [12.5e3, True, None, {}]}, {"a": "", "c": -7}, {"d": "x" * 30}]
    text = json.dumps(rows, ensure_ascii=False, indent=1) + json.dumps(rows) + "".join(map(json.dumps, rows))
    content = f"\ufeff \n{text}".encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    for size in (4, 5, 7, 64):
        monkeypatch.setattr(text_lines, "PIECE_CHARACTERS", size)
        assert list(read_file(tmp_path / name)) == rows * 3
    (tmp_path / "bad.json").write_text('[{"a": 1},\n\n {"a": 2}, {"a" 3}]')
    with pytest.raises(InputError, match=r"row 3: line 3, column 17: invalid JSON"):
        list(read_file(tmp_path / "bad.json"))


@pytest.mark.parametrize("name", ["a.json.gz", "a.jsonl.gz", "a.jsonl"])
def test_a_row_that_unpacks_to_more_than_the_limit_costs_itself(name: str, tmp_path: Path) -> None:
    long, wide = '{"a": "' + "x" * (9 << 20) + '"}', '{"a": "b"}'
    lines = [wide, long, wide]
    content = (f"[{','.join(lines)}]" if ".json." in name else "\n".join(lines)).encode()
    (tmp_path / name).write_bytes(gzip.compress(content, 1) if name.endswith("gz") else content)
    first, dropped, last = read_file(tmp_path / name)
    assert first == last == {"a": "b"}
    assert isinstance(dropped, RowDropped) and "has more than 8388608 bytes, the limit for one row" in dropped.detail


@pytest.mark.parametrize("text", ['[{"a": "' + "x" * 1000, "[" + " " * 1000, "[" * 1000, '{"a": 1}' * 200])
def test_a_document_of_any_size_is_read_in_bounded_memory(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unpacked, the file has 30 times more than a row may have."""
    monkeypatch.setattr(text_lines, "PIECE_CHARACTERS", 1 << 10)
    for module in (json_document, json_rows):
        monkeypatch.setattr(module, "MAX_ROW_BYTES", 1 << 14)
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(text.encode() + text[-1000:].encode() * 500, 1))
    tracemalloc.start()
    try:
        num_rows = sum(1 for _ in read_file(path))
    except InputError as error:
        num_rows = None
        assert "row 1: " in str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 << 14, f"{peak} bytes"
    assert num_rows == (200 + 500 * 125 if text.startswith("{") else None)
