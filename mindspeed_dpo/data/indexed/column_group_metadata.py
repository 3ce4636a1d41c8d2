"""Metadata of a column group: how it was preprocessed, and whether that fits a run's tokenizer and template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindspeed_dpo.data.indexed.indexed_dataset import TokenFileError
from mindspeed_dpo.storage.user_paths import expanded_path
from mindspeed_dpo.untrusted.errors import reraised_as
from mindspeed_dpo.untrusted.json_text import read_json_object
from mindspeed_dpo.untrusted.text_files import has_file


def meta_path(prefix: str | Path) -> Path:
    """Return the path of the metadata file of a group."""
    prefix = expanded_path(prefix)
    return prefix.with_name(f"{prefix.name}_packed_meta.json")


def read_meta(prefix: str | Path) -> dict[str, Any] | None:
    """Return the metadata of a group, or None if it has no metadata file.

    Raises:
        TokenFileError: The file is not a JSON object, or a value that is used is of another type.
    """
    path = meta_path(prefix)
    with reraised_as(TokenFileError, "preprocess again"):
        if not has_file(path):
            return None
        meta = read_json_object(path)
        for key in ("columns", "text_columns"):
            meta.texts(key, ())
        for key in _IDENTITY:
            meta.text(key, None)
        return meta.plain()


_IDENTITY = {
    "tokenizer_fingerprint": "another tokenizer",
    "prompt_type": "another template",
}


def check_fingerprints(
    prefix: str | Path,
    columns: Sequence[str],
    *,
    tokenizer_fingerprint: str | None = None,
    prompt_type: str | None = None,
) -> None:
    """Check that a group was preprocessed with the tokenizer and template of this run, if its metadata records them.

    Args:
        prefix: Path prefix of the group.
        columns: Columns to read; the metadata may describe another group under the same prefix.
        tokenizer_fingerprint: Fingerprint of this run's tokenizer; None is not compared.
        prompt_type: Prompt type of this run; None is not compared.

    Raises:
        TokenFileError: A value differs; the message names both.
    """
    meta = read_meta(prefix)
    if meta is None or not set(columns) <= set(meta.get("columns") or columns):
        return
    expected = (tokenizer_fingerprint, prompt_type)
    for (key, what), own in zip(_IDENTITY.items(), expected, strict=True):
        theirs = meta.get(key)
        if own is not None and theirs is not None and own != theirs:
            raise TokenFileError(
                f"data_path {prefix} was preprocessed with {what} ({key} {theirs}, this run has {own}); "
                "preprocess again, or use the tokenizer and template of the data"
            )
