"""Tokenizer folders: good ones are opened, and what takes time or memory or has other types is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mindspeed_dpo.data.tokenization import tokenizer
from mindspeed_dpo.data.tokenization.tokenizer import load_tokenizer, stop_token_ids
from mindspeed_dpo.untrusted import tokenizer_files, tokenizer_probe
from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.tokenizer_files import check_tokenizer
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.hf.hf_assets import copy_assets
from tests.support.tokenizers import CHAT_TEMPLATE, save_tokenizer


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_good_tokenizer_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tokenizer(tmp_path / "t", chat_template=CHAT_TEMPLATE)
    check_tokenizer(folder)
    monkeypatch.setattr(tokenizer_files, "run_probe", lambda directory: pytest.fail("tried again"))
    check_tokenizer(folder)
    assert load_tokenizer(folder)("ab")["input_ids"]


BAD = {
    "no object": ("tokenizer.json", None, "must hold a JSON object"),
    "id": ("tokenizer.json", {"added_tokens": [{"id": 1 << 40, "content": "a"}]}, "'id' has the id"),
    "id of another type": ("tokenizer.json", {"added_tokens": [{"id": "a", "content": "a"}]}, "id must be an integer"),
    "no model": (
        "tokenizer.json",
        {"model": {"type": "BPE", "vocab": [], "merges": 5}},
        "no tokenizer that can be opened",
    ),
    "id in the settings": ("tokenizer_config.json", {"added_tokens_decoder": {"9" * 12: {}}}, "not a token id up to"),
    "class": ("tokenizer_config.json", {"tokenizer_class": 5}, "tokenizer_class must be a text"),
    "template": ("tokenizer_config.json", {"chat_template": {"a": 1}}, "chat_template must be a text"),
    "special token": ("special_tokens_map.json", {"eos_token": 7}, "'eos_token' is not a token"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_with_other_content_is_named(name: str, tmp_path: Path) -> None:
    file, values, words = BAD[name]
    folder = save_tokenizer(tmp_path)
    if not (folder / file).exists():
        (folder / file).write_text("{}")
    if values is None:
        (folder / file).write_text("[]")
    else:
        edit(folder / file, **values)
    with pytest.raises(ValueError, match=words) as error:
        load_tokenizer(folder)
    assert str(tmp_path) in str(error.value)


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
GROWTH = "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}"


@pytest.mark.parametrize(
    ("template", "words", "limit"),
    [
        (LOOPS, "takes more than 1 s of processor time", "PROBE_CPU_S"),
        (LOOPS, "takes more than 1 s", "PROBE_TIMEOUT_S"),
        (GROWTH, "too much memory|MemoryError", ""),
    ],
)
def test_a_template_that_does_not_end_is_refused(
    template: str, words: str, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limit:
        monkeypatch.setattr(tokenizer_probe, limit, 1)
    with pytest.raises(MalformedDataError, match=words):
        check_tokenizer(save_tokenizer(tmp_path, chat_template=template))


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "vocab.json",
        "x.model",
        "generation_config.json",
    ],
)
@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a link that leads nowhere"])
def test_what_is_no_file_is_named_and_nobody_waits_for_it(name: str, kind: str, tmp_path: Path) -> None:
    """A link to a file that was not copied would otherwise silently stand for no template, or no end token."""
    folder = save_tokenizer(tmp_path / "t")
    path = folder / name
    path.unlink(missing_ok=True)
    make = {"a folder": path.mkdir, "a pipe": lambda: os.mkfifo(path)}
    make.get(kind, lambda: path.symlink_to("../blobs/absent"))()
    with pytest.raises(ValueError, match=f"{path} is {kind}, where a file is expected"):
        stop_token_ids(load_tokenizer(folder), model_dir=folder)
    with pytest.raises(WeightsError, match=f"{path} is {kind}, where a file is expected"):
        copy_assets(folder, tmp_path / "copy")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1]", "JSON object"),
        ('{"eos_token_id": "a"}', "an integer"),
        ('{"eos_token_id": [1.5]}', "an integer"),
        ("\x80", "JSON"),
    ],
)
def test_end_tokens_of_other_types_are_refused(content: str, words: str, tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path)
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(ValueError, match=rf"generation_config\.json.*{words}"):
        stop_token_ids(load_tokenizer(folder), model_dir=folder)


def test_sparse_files_of_any_size_are_neither_copied_nor_held_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "MAX_VOCABULARY_BYTES", 1000)
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(WeightsError, match=r"tokenizer\.json has 1099511627776 bytes; .* at most 268435456"):
        copy_assets(tmp_path, tmp_path / "copy")
    with pytest.raises(MalformedDataError, match=r"tokenizer\.json has more than 1000 bytes"):
        tokenizer.tokenizer_fingerprint(tmp_path)
