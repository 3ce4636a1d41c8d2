"""Token files of a path: the path itself if it is their prefix, else made once from raw data and cached.

The folder of the cache is named after a fingerprint of the content of the raw files, the settings, the tokenizer and
the version, so a run finds the tokens of an earlier one, and never those of other data. A folder is complete once its
description is in it, which is written last.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mindspeed_dpo
from mindspeed_dpo.autoconfig.data_request import DataRequest
from mindspeed_dpo.data.indexed.column_group import PAIR_COLUMNS, PROMPT_COLUMNS, columns_present, open_columns
from mindspeed_dpo.data.preprocessing.handler_table import HANDLERS
from mindspeed_dpo.data.preprocessing.input_sources import RawData, find_input
from mindspeed_dpo.data.preprocessing.pipeline import preprocess
from mindspeed_dpo.data.preprocessing.process_pool import available_cores
from mindspeed_dpo.data.preprocessing.settings import PreprocessSettings
from mindspeed_dpo.data.recognition.recognise import recognise
from mindspeed_dpo.data.recognition.sample_text import sample_lines
from mindspeed_dpo.data.tokenization.tokenizer import tokenizer_fingerprint
from mindspeed_dpo.storage.atomic_write import write_text_atomically
from mindspeed_dpo.storage.digests import file_digest
from mindspeed_dpo.storage.process_lock import LockHeldError, ProcessLock
from mindspeed_dpo.storage.user_paths import expanded_path
from mindspeed_dpo.storage.write_errors import write_errors
from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.json_text import read_json_object

DESCRIPTION = "tokens.json"
_NAME, _LOCK, _PACKED = "tokens", "lock", "_packed"
_TEMPLATE_FILES = ("tokenizer_config.json", "chat_template.jinja", "chat_template.json", "added_tokens.json")
_WAIT_S = 0.5
_UNHASHED = ("input", "output_prefix", "workers", "n_subs", "log_interval", "tokenizer_name_or_path", "cache_dir",
             "prompt_type_path", "streaming", "overwrite_cache", "hf_datasets_params", "merge_group_keys")  # fmt: skip

logger = logging.getLogger(__name__)


def token_files(path: str, request: DataRequest, show: Callable[[str], None]) -> str:
    """Return the prefix of the token files of a path, which are made from raw data if necessary.

    Args:
        path: Prefix of token files, a file or folder of raw data, or one of the token files.
        request: How raw data becomes tokens.
        show: Receives lines for the user: how the raw rows are read, with a sample, and what was written.

    Raises:
        FileNotFoundError: The path does not exist.
        ValueError: The rows have no known form, or cannot be used.
        OSError: A file cannot be read or written.
    """
    prefix = existing_prefix(path)
    if prefix is not None:
        return prefix
    settings = _settings(path, request)
    raw = find_input(settings)
    if not raw.files:
        raise FileNotFoundError(f"there is no file or folder {path}; download a data set of a hub first")
    user = request.settings
    found = recognise(
        raw.rows(), request.kind, path, handler_name=user.get("handler_name", ""), map_keys=user.get("map_keys")
    )
    settings = replace(settings, **{**found.form.options, **user})
    settings = replace(settings, handler_name=found.form.handler_name, map_keys=dict(found.form.map_keys))
    problems = [problem for problem in settings.problems() if not problem.startswith("output_prefix")]
    if problems:
        raise ValueError("; ".join(problems))
    for line in sample_lines(path, found):
        show(line)
    return _cached(raw, settings, request, show)


def existing_prefix(path: str) -> str | None:
    """Return the prefix of token files that a path names, or None; the path may go on with `_packed…`."""
    start, packed, _ = path.rpartition(_PACKED)
    candidates = [path, *([start] if packed and "/" not in path[len(start) :] else [])]
    return next((prefix for prefix in candidates if columns_present(prefix)), None)


def _settings(path: str, request: DataRequest) -> PreprocessSettings:
    template = request.settings.get("prompt_type") or default_prompt_type(request.tokenizer)
    return PreprocessSettings(
        input=path,
        tokenizer_name_or_path=request.tokenizer,
        prompt_type=template,
        workers=available_cores(),
        max_samples=request.settings.get("max_samples"),
    )


def default_prompt_type(tokenizer: str) -> str:
    """Return `chat_template` if the folder of a tokenizer has one, else `plain`."""
    folder = expanded_path(tokenizer)
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return "chat_template"
    try:
        has_template = bool(read_json_object(folder / "tokenizer_config.json").get("chat_template"))
    except (OSError, MalformedDataError):
        has_template = False
    return "chat_template" if has_template else "plain"


def _cached(raw: RawData, settings: PreprocessSettings, request: DataRequest, show: Callable[[str], None]) -> str:
    """Return the prefix in the cache; preprocess if the cache lacks it."""
    stem = raw.files[0].name.split(".")[0] if len(raw.files) == 1 else Path(settings.input).name
    folder = expanded_path(request.cache_dir) / f"{stem}-{fingerprint(raw, settings)}"
    prefix = folder / _NAME
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        num_written = _num_complete_rows(folder, HANDLERS[settings.handler_name].kind)
        if num_written is not None:
            show(f"  {num_written} rows as tokens in {folder}, made by an earlier run")
            return str(prefix)
        counts = preprocess(replace(settings, output_prefix=str(prefix))).row_counts
        content = {"num_written": counts.num_written, "num_read": counts.num_read, "settings": _hashed(settings)}
        write_text_atomically(folder / DESCRIPTION, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    show(f"  prompt_type={settings.prompt_type}: {counts.num_written} of {counts.num_read} rows as tokens in {folder}")
    for reason, count, remark in counts.drop_summary():
        show(f"  {count} rows dropped as {reason}: {remark}")
    return str(prefix)


def _num_complete_rows(folder: Path, kind: str) -> int | None:
    """Return the number of rows of complete token files; None if there are none, or not as they were written."""
    try:
        content = read_json_object(folder / DESCRIPTION)
        columns = open_columns(folder / _NAME, PAIR_COLUMNS if kind == "pair" else PROMPT_COLUMNS)
        num_rows = len(next(iter(columns.values())))
        return num_rows if content.integer("num_written") == num_rows else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("the tokens in %s are made again: %s", folder, error)
        return None


def fingerprint(raw: RawData, settings: PreprocessSettings) -> str:
    """Hash what the tokens depend on: content of the raw files, settings, tokenizer, templates and version."""
    digest = hashlib.sha256(f"{mindspeed_dpo.__version__} {json.dumps(_hashed(settings), sort_keys=True)}".encode())
    for file in raw.files:
        digest.update(json.dumps([file.suffix, file_digest(file).as_json()]).encode())
    tokenizer = expanded_path(settings.tokenizer_name_or_path or "")
    digest.update(tokenizer_fingerprint(tokenizer).encode())
    for path in [*(tokenizer / name for name in _TEMPLATE_FILES), Path(settings.prompt_type_path or "")]:
        if path.is_file():
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _hashed(settings: PreprocessSettings) -> dict[str, Any]:
    return {key: value for key, value in asdict(settings).items() if key not in _UNHASHED}


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, after waiting for another run that fills it."""
    lock, is_logged = ProcessLock(folder / _LOCK), False
    while True:
        try:
            lock.acquire()
            break
        except LockHeldError as error:
            if not is_logged:
                logger.warning("waiting for %s, which makes the same tokens in %s", error.holder, folder)
                is_logged = True
            time.sleep(_WAIT_S)
    try:
        yield
    finally:
        lock.release()
