"""Merge mode: the sets of a folder joined into one, column by column, in the numeric order of their names.

Columns are matched by their exact names, and a set takes part whole or not at all; what prompts carry beside their
tokens comes along.
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
    read_meta,
    text_columns_path,
    writing,
)
from mindspeed_dpo.data.indexed.indexed_dataset import TokenReader
from mindspeed_dpo.data.indexed.text_columns import TextColumnsReader
from mindspeed_dpo.data.preprocessing.pipeline import Outcome, PreprocessError
from mindspeed_dpo.data.preprocessing.row_counts import Tally
from mindspeed_dpo.data.preprocessing.settings import PreprocessSettings

_COLUMN_FILE = re.compile(r"(?P<prefix>.+)_packed_(?P<column>.+)_document\.idx")
_SAME = ("tokenizer_fingerprint", "template_fingerprint", "prompt_type")


def merge(settings: PreprocessSettings) -> Outcome:
    """Join all sets in the folder `input` that have the columns `merge_group_keys`.

    Raises:
        FileNotFoundError: The folder is missing.
        ValueError: No set has these columns, one has only some or further ones, or they were made differently.
    """
    folder = Path(settings.input).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"input: for a merge there should be a folder {folder}")
    columns = tuple(_bare(key) for key in settings.merge_group_keys)
    prefixes = _prefixes(folder, columns, Path(settings.output_prefix).expanduser())
    metas = _common_identity(prefixes)
    tally = Tally()
    with writing(settings.output_prefix, columns, _text_columns(prefixes, columns)) as writer:
        for prefix in prefixes:
            readers = open_columns(prefix, columns)
            _check_types(prefix, readers)
            rows = len(readers[columns[0]])
            writer.append_all(readers, open_text_columns(prefix, rows, columns) if writer.text_columns else None)
            longest = Counter({name: int(reader.lengths.max(initial=0)) for name, reader in readers.items()})
            tally.add(Tally(rows_in=rows, kept=rows, longest=longest))
        identity = metas[0] if metas else {}
        meta = writer.commit({**identity, **tally.as_dict(), "merged": [prefix.name for prefix in prefixes]})
    return Outcome(writer.prefix, columns, tally, (), meta)


def _bare(key: str) -> str:
    """`packed_labels_document` and `labels` name the same column."""
    return key.removeprefix("packed_").removesuffix("_document")


def _prefixes(folder: Path, columns: Sequence[str], output: Path) -> list[Path]:
    """The prefixes of the sets that are joined."""
    matches = (_COLUMN_FILE.fullmatch(path.name) for path in folder.iterdir())
    names = {match["prefix"] for match in matches if match and match["column"] in columns}
    prefixes = sorted((folder / name for name in names), key=lambda path: _natural(path.name))
    prefixes = [prefix for prefix in prefixes if prefix.resolve() != output.resolve()]
    if not prefixes:
        raise PreprocessError(f"input: no set in {folder} has the columns {', '.join(columns)}")
    for prefix in prefixes:
        present = columns_present(prefix)
        if set(present) != set(columns):
            raise PreprocessError(
                f"{prefix} has the columns {', '.join(present)}, but merge_group_keys names {', '.join(columns)}; "
                "columns of a set belong together, so name all of them and no other"
            )
    return prefixes


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _common_identity(prefixes: Sequence[Path]) -> list[dict[str, Any]]:
    """The descriptions of the sets, where they have one, which agree in tokenizer and template."""
    described = [(prefix, meta) for prefix in prefixes if (meta := read_meta(prefix)) is not None]
    for prefix, meta in described[1:]:
        first, expected = described[0]
        for key in _SAME:
            if meta.get(key) != expected.get(key):
                raise PreprocessError(f"cannot merge {prefix} and {first}: they were made with different {key}")
    return [meta for _, meta in described]


def _text_columns(prefixes: Sequence[Path], columns: Sequence[str]) -> tuple[str, ...]:
    """What the rows of all sets carry beside their tokens: the same in each."""
    if not {PROMPT_COLUMNS[0], PAIR_COLUMNS[0]} & set(columns):
        return ()
    paths = {prefix: text_columns_path(prefix, columns) for prefix in prefixes}
    names = {prefix: TextColumnsReader(path).names if path.is_file() else () for prefix, path in paths.items()}
    first = names[prefixes[0]]
    for prefix, own in names.items():
        if own != first:
            raise PreprocessError(
                f"cannot merge {prefix} and {prefixes[0]}: beside tokens rows have {', '.join(own) or 'nothing'} in "
                f"the one and {', '.join(first) or 'nothing'} in the other; preprocess one of them again"
            )
    return first


def _check_types(prefix: Path, readers: dict[str, TokenReader]) -> None:
    for column, reader in readers.items():
        if reader.dtype.kind not in "iu":
            raise PreprocessError(f"{prefix}: column {column} holds {reader.dtype}, not integers")
