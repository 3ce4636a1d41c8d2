"""Merge mode: concatenates the datasets of a folder column by column, in the natural order of their names.

Columns are matched by exact name, and every dataset must have all of them. Text columns are merged along with the
token columns.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindspeed_dpo.data.indexed.column_group import (
    PAIR_COLUMNS,
    PROMPT_COLUMNS,
    columns_present,
    open_columns,
    open_text_columns,
    text_columns_path,
)
from mindspeed_dpo.data.indexed.column_group_metadata import read_meta
from mindspeed_dpo.data.indexed.column_group_writer import writing
from mindspeed_dpo.data.indexed.indexed_dataset import IndexedDatasetReader
from mindspeed_dpo.data.indexed.text_columns import TextColumnsReader
from mindspeed_dpo.data.preprocessing.pipeline import PreprocessError, PreprocessResult
from mindspeed_dpo.data.preprocessing.row_counts import RowCounts
from mindspeed_dpo.data.preprocessing.settings import PreprocessSettings
from mindspeed_dpo.storage.user_paths import expanded_path, real_path

_COLUMN_FILE = re.compile(r"(?P<prefix>.+)_packed_(?P<column>.+)_document\.idx")
_IDENTITY_KEYS = ("tokenizer_fingerprint", "template_fingerprint", "prompt_type")


def merge(settings: PreprocessSettings) -> PreprocessResult:
    """Merge all datasets in the folder `input` that have the columns `merge_group_keys`.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: No dataset has these columns, one lacks some or has further ones, or they were preprocessed with
            different tokenizers or templates.
    """
    folder = expanded_path(settings.input)
    if not folder.is_dir():
        raise FileNotFoundError(f"input: a merge needs a folder of datasets; there is no folder {folder}")
    columns = tuple(_column_name(key) for key in settings.merge_group_keys)
    prefixes = _prefixes(folder, columns, expanded_path(settings.output_prefix))
    metas = _common_identity(prefixes)
    counts = RowCounts()
    with writing(settings.output_prefix, columns, _text_columns(prefixes, columns)) as writer:
        for prefix in prefixes:
            readers = open_columns(prefix, columns)
            _check_types(prefix, readers)
            rows = len(readers[columns[0]])
            writer.append_all(readers, open_text_columns(prefix, rows, columns) if writer.text_columns else None)
            max_lengths = Counter({name: int(reader.lengths.max(initial=0)) for name, reader in readers.items()})
            counts.add(RowCounts(num_read=rows, num_written=rows, max_lengths=max_lengths))
        identity = metas[0] if metas else {}
        meta = writer.commit({**identity, **counts.as_dict(), "merged": [prefix.name for prefix in prefixes]})
    return PreprocessResult(writer.prefix, columns, counts, meta=meta)


def _column_name(key: str) -> str:
    """Return the bare column name; `packed_labels_document` and `labels` name the same column."""
    return key.removeprefix("packed_").removesuffix("_document")


def _prefixes(folder: Path, columns: Sequence[str], output: Path) -> list[Path]:
    """Return the prefixes of the datasets to merge, in their natural order."""
    matches = (_COLUMN_FILE.fullmatch(path.name) for path in folder.iterdir())
    names = {match["prefix"] for match in matches if match and match["column"] in columns}
    prefixes = sorted((folder / name for name in names), key=lambda path: _natural_sort_key(path.name))
    prefixes = [prefix for prefix in prefixes if real_path(prefix) != real_path(output)]
    if not prefixes:
        raise PreprocessError(f"input: no dataset in {folder} has the columns {', '.join(columns)}")
    for prefix in prefixes:
        present = columns_present(prefix)
        if set(present) != set(columns):
            raise PreprocessError(
                f"{prefix} has the columns {', '.join(present)}, but merge_group_keys names {', '.join(columns)}; "
                "merge_group_keys must name exactly the columns of each dataset"
            )
    return prefixes


def _natural_sort_key(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _common_identity(prefixes: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the metadata of the datasets that have some; tokenizer and template must be the same in all of them."""
    with_metadata = [(prefix, meta) for prefix in prefixes if (meta := read_meta(prefix)) is not None]
    for prefix, meta in with_metadata[1:]:
        first, expected = with_metadata[0]
        for key in _IDENTITY_KEYS:
            if meta.get(key) != expected.get(key):
                raise PreprocessError(f"cannot merge {prefix} and {first}: they were preprocessed with different {key}")
    return [meta for _, meta in with_metadata]


def _text_columns(prefixes: Sequence[Path], columns: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the text columns, which must be the same in all datasets."""
    if not {PROMPT_COLUMNS[0], PAIR_COLUMNS[0]} & set(columns):
        return ()
    paths = {prefix: text_columns_path(prefix, columns) for prefix in prefixes}
    names = {prefix: TextColumnsReader(path).names if path.is_file() else () for prefix, path in paths.items()}
    first = names[prefixes[0]]
    for prefix, own in names.items():
        if own != first:
            raise PreprocessError(
                f"cannot merge {prefix} and {prefixes[0]}: their text columns are {', '.join(own) or 'none'} "
                f"and {', '.join(first) or 'none'}; preprocess one of them again"
            )
    return first


def _check_types(prefix: Path, readers: dict[str, IndexedDatasetReader]) -> None:
    for column, reader in readers.items():
        if reader.dtype.kind not in "iu":
            raise PreprocessError(f"{prefix}: column {column} should have an integer type, got {reader.dtype}")
