"""YAML: plain values within limits, and one sentence for everything else."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.yaml_text import MAX_INTERPOLATIONS, parse_yaml, read_yaml_mapping, read_yaml_texts

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n}\n  b: *a{n - 1}\n  c: *a{n - 1}\n" for n in range(1, 40))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("a: " + "[" * 60 + "]" * 60, "nested more than 50 deep"),
        ("a: " + "[" * 100_000, "nest"),
        ("a: " + "1" * 400, "more than 300 digits"),
        ("a: 1" + ":59" * 4000, "more than 300 digits"),
        ("a: 2026-13-45", "not valid YAML"),
        ("a: &a [*a]", "refers to no complete value before it"),
        (LAUGHS, "more than 100000 keys and values"),
        (MERGES, "more than 100000 keys and values"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("? [a]\n: 1", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
    ],
    ids=[
        *("cut", "code", "deep", "very-deep", "digits", "base-60", "date", "itself"),
        *("aliases", "aliases-in-pairs", "two", "key", "null"),
    ],
)
def test_what_is_not_plain_or_too_much_is_refused(text: str, words: str) -> None:
    with pytest.raises(MalformedDataError, match=rf"^f\.yaml.*{words}"):
        parse_yaml(text, "f.yaml")


def test_anchors_dates_and_merges_of_ordinary_files_are_read() -> None:
    text = "base: &b {lr: 1.0e-6}\nrun:\n  <<: *b\n  n: 0x10\nday: 2026-11-30\n"
    day = datetime.date(2026, 11, 30)
    assert parse_yaml(text, "f") == {"base": {"lr": 1e-6}, "run": {"lr": 1e-6, "n": 16}, "day": day}


def test_a_mapping_of_texts_is_required(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    for content, words in (("- 1", "`key: value` lines, got a list"), ("1: a", "the key 1 is not a text")):
        path.write_text(content)
        with pytest.raises(MalformedDataError, match=words):
            read_yaml_mapping(path)
    path.write_text("")
    assert read_yaml_mapping(path) == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [" + "x, " * 5000 + "]", "more than 3000 keys and values"),
        ("a: &a {" + ", ".join(f"k{n}: v" for n in range(100)) + "}\nb: [" + "*a, " * 40 + "]", "keys and values"),
        ("a: " + "${b}" * (MAX_INTERPOLATIONS + 1), "more than 1000 interpolations"),
    ],
    ids=["list", "aliases", "interpolations"],
)
def test_a_file_of_texts_has_as_many_values_as_hydra_reads_in_seconds(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(MalformedDataError, match=words):
        read_yaml_texts(path)


def test_tags_of_numbers_and_dates_keep_the_text_and_other_tags_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "a: !!int 010\nb: !!float .inf\nc: !!timestamp 2026-12-01\nd: !!bool on\ne: !!null ''\nf: !!str 1\n"
    )
    assert read_yaml_texts(path) == {"a": "010", "b": ".inf", "c": "2026-12-01", "d": "on", "e": None, "f": "1"}
    for tag in ("!!binary aGk=", "!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]"):
        path.write_text(f"a: {tag}")
        with pytest.raises(MalformedDataError, match=r"a\.yaml is not valid YAML: .*tag"):
            read_yaml_texts(path)
