"""Tokenizer folders: the check of their files before a library reads them.

Types and sizes are checked here. Only a trial shows how much time and memory the libraries need:
`tokenizer_probe` opens the tokenizer in a process of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.json_object import JsonObject
from mindspeed_dpo.untrusted.json_text import read_json_object
from mindspeed_dpo.untrusted.text_files import has_file, read_bytes, read_text
from mindspeed_dpo.untrusted.tokenizer_probe import run_probe

MAX_VOCABULARY_BYTES = 1 << 28
"""Limit for a file of a vocabulary; those of the largest take some tens of megabytes."""
MAX_TEMPLATE_CHARACTERS = 1 << 20
MAX_TOKEN_ID = 1 << 24
"""Limit for token ids, each of which takes a row of the embedding."""
_TRIED: set[str] = set()
"""Digests of the files that a probe has opened without an error."""


def check_tokenizer(directory: Path) -> None:
    """Check the files of a tokenizer, once per process and content.

    Raises:
        MalformedDataError: A file is damaged, or takes too much time or memory; the message names it.
    """
    files = sorted(path for path in directory.iterdir() if _is_tokenizer_file(path.name) and has_file(path))
    digest = hashlib.sha256()
    for path in files:
        check = _CHECKS.get(path.name, _check_template if path.suffix == ".jinja" else None)
        if check is not None:
            check(path)
        digest.update(path.name.encode() + hashlib.sha256(read_bytes(path, MAX_VOCABULARY_BYTES)).digest())
    if digest.hexdigest() not in _TRIED:
        run_probe(directory)
        _TRIED.add(digest.hexdigest())


def _is_tokenizer_file(name: str) -> bool:
    return name in _CHECKS or name.endswith((".jinja", ".model", ".tiktoken"))


def _check_tokenizer_json(path: Path) -> None:
    content = read_json_object(path, MAX_VOCABULARY_BYTES)
    model = content.section("model")
    if isinstance(model.get("vocab"), dict):
        _check_ids(model.section("vocab"))
    for token in content.objects("added_tokens", ()):
        _check_id(token, "id")
        token.text("content")


def _check_settings(path: Path) -> None:
    """Check the settings in tokenizer_config.json."""
    settings = read_json_object(path, MAX_VOCABULARY_BYTES)
    settings.text("tokenizer_class", None)
    if isinstance(settings.get("model_max_length"), bool):
        raise MalformedDataError(f"{path}: model_max_length must be a number")
    settings.number("model_max_length", None)
    added = settings.section("added_tokens_decoder", JsonObject({}, ""))
    for key in added:
        if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) <= MAX_TOKEN_ID):
            raise MalformedDataError(f"{added.location}: {key[:40]!r} is not a token id up to {MAX_TOKEN_ID}")
        added.section(key)
    for template in _templates(settings):
        _check_length(template, path)


def _templates(settings: JsonObject) -> Iterator[str]:
    """The chat template, or the named ones."""
    if isinstance(settings.get("chat_template"), list):
        yield from (entry.text("template") for entry in settings.objects("chat_template"))
    else:
        yield settings.text("chat_template", "")


def _check_template(path: Path) -> None:
    _check_length(read_text(path, 4 * MAX_TEMPLATE_CHARACTERS), path)


def _check_length(template: str, path: Path) -> None:
    if len(template) > MAX_TEMPLATE_CHARACTERS:
        raise MalformedDataError(f"{path}: the chat template has more than {MAX_TEMPLATE_CHARACTERS} characters")


def _check_named_template(path: Path) -> None:
    for template in _templates(read_json_object(path)):
        _check_length(template, path)


def _check_vocabulary(path: Path) -> None:
    _check_ids(read_json_object(path, MAX_VOCABULARY_BYTES))


def _check_ids(ids: JsonObject) -> None:
    for token in ids:
        _check_id(ids, token)


def _check_id(items: JsonObject, key: str) -> None:
    if items.integer(key, minimum=0) > MAX_TOKEN_ID:
        raise MalformedDataError(f"{items.location}: {key!r} has the id {items[key]}, more than {MAX_TOKEN_ID}")


def _check_special_tokens(path: Path) -> None:
    for key, value in read_json_object(path).items():
        tokens = value if isinstance(value, list) else [value]
        if not all(token is None or isinstance(token, (str, dict)) for token in tokens):
            raise MalformedDataError(f"{path}: {key!r} is not a token")


def _check_text(path: Path) -> None:
    read_text(path, MAX_VOCABULARY_BYTES)


def _check_json(path: Path) -> None:
    read_json_object(path)


_CHECKS: Mapping[str, Callable[[Path], None]] = {
    "tokenizer.json": _check_tokenizer_json,
    "tokenizer_config.json": _check_settings,
    "chat_template.json": _check_named_template,
    "vocab.json": _check_vocabulary,
    "added_tokens.json": _check_vocabulary,
    "special_tokens_map.json": _check_special_tokens,
    "merges.txt": _check_text,
    "vocab.txt": _check_text,
    "config.json": _check_json,
}
