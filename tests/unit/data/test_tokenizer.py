"""Tokenizers: loading, identity, padding and stop ids."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mindspeed_dpo.data.tokenization.template_file import load_template
from mindspeed_dpo.data.tokenization.tokenizer import (
    load_tokenizer,
    stop_token_ids,
    tokenizer_fingerprint,
    with_padding,
    with_template,
)
from tests.support.tokenizers import save_tokenizer


def test_padding_id_zero_is_a_padding_id(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_tokenizer(tmp_path, pad="<pad>"))
    assert tokenizer.pad_token_id == 0
    assert with_padding(tokenizer).pad_token_id == 0


def test_a_tokenizer_without_padding_pads_with_its_end(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_tokenizer(tmp_path, pad=None))
    assert with_padding(tokenizer).pad_token_id == tokenizer.eos_token_id
    assert tokenizer.pad_token_id is None


def test_templates_change_a_copy(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_tokenizer(tmp_path, special=["<|im_end|>"]))
    assert with_template(tokenizer, load_template("qwen")).eos_token == "<|im_end|>"
    assert tokenizer.eos_token == "</s>"
    assert with_template(tokenizer, load_template("mistral")).eos_token == "</s>"


def test_without_any_end_token_endoftext_is_taken(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_tokenizer(tmp_path, eos=None, pad=None, special=["<|endoftext|>"]))
    ended = with_template(tokenizer, load_template("mistral"))
    assert ended.eos_token == ended.pad_token == "<|endoftext|>"


def test_stop_ids_come_from_tokenizer_template_and_generation_config(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_tokenizer(tmp_path, special=["<|user|>", "<|observation|>", "<|more|>"]))
    more = tokenizer.convert_tokens_to_ids("<|more|>")
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [more, 2]}))
    named = {tokenizer.convert_tokens_to_ids(word) for word in ("<|user|>", "<|observation|>")}
    assert stop_token_ids(tokenizer) == {2}
    assert stop_token_ids(tokenizer, load_template("glm4"), tmp_path) == {2, more, *named}
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 7}))
    assert stop_token_ids(tokenizer, None, tmp_path) == {2, 7}


def test_without_any_end_token_there_are_no_stop_ids(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_tokenizer(tmp_path))
    tokenizer.eos_token = None
    assert stop_token_ids(tokenizer, None, tmp_path) == frozenset()
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": None}))
    assert stop_token_ids(tokenizer, None, tmp_path) == frozenset()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"eos_token_id": "2"}', "eos_token_id must be an integer"),
        (b'{"eos_token_id": true}', "eos_token_id must be an integer"),
        (b'{"eos_token_id": [2, null]}', "eos_token_id must be an integer"),
        (b'{"eos_token_id": 2.5}', "eos_token_id must be an integer"),
        (b"[2]", "must hold a JSON object"),
        (b'{"eos_token_id": 2', "invalid JSON"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"[" * 100_000, "nested more than"),
    ],
)
def test_a_damaged_generation_config_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    tokenizer = load_tokenizer(save_tokenizer(tmp_path))
    (tmp_path / "generation_config.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(tmp_path / 'generation_config.json'))}.*{words}"):
        stop_token_ids(tokenizer, None, tmp_path)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("content", [b"[1]", b"\xff", b'{"a": ', b"[" * 100_000, b'"text"'])
def test_a_damaged_file_of_a_tokenizer_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (save_tokenizer(tmp_path) / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / name))):
        load_tokenizer(tmp_path)


def test_a_tokenizer_without_a_vocabulary_gets_a_sentence(tmp_path: Path) -> None:
    (save_tokenizer(tmp_path) / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json lacks 'model'"):
        load_tokenizer(tmp_path)


def test_the_fingerprint_follows_the_vocabulary_and_nothing_else(tmp_path: Path) -> None:
    one = save_tokenizer(tmp_path / "one")
    same = save_tokenizer(tmp_path / "same", chat_template="x")
    other = save_tokenizer(tmp_path / "other", special=["<|x|>"])
    assert tokenizer_fingerprint(one) == tokenizer_fingerprint(same) != tokenizer_fingerprint(other)


def test_missing_and_empty_directories_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        load_tokenizer(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"^tokenizer_name_or_path: .* holds no tokenizer; name a folder"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match=r"^reward_tokenizer: .* holds no tokenizer"):
        load_tokenizer(tmp_path, key="reward_tokenizer")


def test_code_beside_a_tokenizer_does_not_run_unasked(tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(proof)!r}, 'w')\nclass Evil: pass\n")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}})
    )
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil"}))
    with pytest.raises(ValueError):
        load_tokenizer(tmp_path)
    assert not proof.exists()
