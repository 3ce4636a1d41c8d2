"""Column groups: the columns of a pair or prompt dataset under one prefix, with a JSON file of metadata.

Files: `{prefix}_packed_{column}_document.{bin,idx}` with tokens, `{prefix}_packed_columns.arrow` (prompts) or
`{prefix}_packed_pair_columns.arrow` (pairs) with text columns, and `{prefix}_packed_meta.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mindspeed_dpo.data.indexed.indexed_dataset import IndexedDatasetReader, TokenFileError
from mindspeed_dpo.data.indexed.text_columns import TextColumnsReader
from mindspeed_dpo.storage.user_paths import expanded_path
from mindspeed_dpo.untrusted.errors import reraised_as
from mindspeed_dpo.untrusted.text_files import has_file

PAIR_COLUMNS = ("chosen_input_ids", "chosen_labels", "rejected_input_ids", "rejected_labels")
RANKING_COLUMNS = (*PAIR_COLUMNS, "between_input_ids", "between_labels", "between_lengths")
"""A ranking is the pair of its best and its worst response, and the responses between them, one after the other."""
PROMPT_COLUMNS = ("input_ids", "attention_mask")
MESSAGES, LABELS = "messages", "labels"
"""Text columns: the prompt as a list of messages, and its reference response."""
IGNORE_INDEX = -100
"""Label of a token that is excluded from the loss."""


def column_stem(prefix: str | Path, column: str) -> Path:
    """Return the path of a column without `.bin` or `.idx`."""
    prefix = expanded_path(prefix)
    return prefix.with_name(f"{prefix.name}_packed_{column}_document")


def text_columns_path(prefix: str | Path, columns: Sequence[str] = PROMPT_COLUMNS) -> Path:
    """Return the path of the text columns of a group; `columns` are its token columns."""
    prefix = expanded_path(prefix)
    kind = "columns" if PROMPT_COLUMNS[0] in columns else "pair_columns"
    return prefix.with_name(f"{prefix.name}_packed_{kind}.arrow")


def replacing_path(prefix: Path) -> Path:
    """Return the path of the marker that exists while files of a group are replaced."""
    return prefix.with_name(f"{prefix.name}_packed_replacing")


def open_columns(prefix: str | Path, columns: Sequence[str]) -> dict[str, IndexedDatasetReader]:
    """Open the given columns of a group.

    Raises:
        FileNotFoundError: A column is missing; the message lists the columns under the prefix.
        TokenFileError: A file is damaged, or the columns have different numbers of rows.
    """
    prefix = expanded_path(prefix)
    if replacing_path(prefix).exists():
        raise TokenFileError(
            f"{prefix} is being replaced, or a run was killed while replacing it; "
            f"preprocess again, or delete {replacing_path(prefix)} if all files are of one run"
        )
    present = columns_present(prefix)
    missing = [column for column in columns if column not in present]
    if missing:
        raise FileNotFoundError(
            f"data_path {prefix}: there is no {column_stem(prefix, missing[0])}.idx. Columns under this prefix: "
            f"{', '.join(present) or 'none'}. data_path is the path before _packed"
        )
    readers = {column: IndexedDatasetReader(column_stem(prefix, column)) for column in columns}
    rows = {column: len(reader) for column, reader in readers.items()}
    if len(set(rows.values())) > 1:
        raise TokenFileError(f"data_path {prefix}: columns have different numbers of rows, {rows}")
    return readers


def open_text_columns(
    prefix: str | Path, rows: int, columns: Sequence[str] = PROMPT_COLUMNS
) -> TextColumnsReader | None:
    """Open the text columns of a group, or return None if it has none.

    Args:
        prefix: Path prefix of the group.
        rows: Number of rows of its token columns.
        columns: Names of its token columns, which distinguish prompts from pairs.

    Raises:
        TokenFileError: The file is damaged, or has another number of rows.
    """
    path = text_columns_path(prefix, columns)
    with reraised_as(TokenFileError, "preprocess again"):
        if not has_file(path):
            return None
    reader = TextColumnsReader(path)
    if len(reader) != rows:
        raise TokenFileError(
            f"{path} has {len(reader)} rows, but the token columns have {rows}: the files are of different runs; "
            "preprocess again"
        )
    return reader


def columns_present(prefix: str | Path) -> list[str]:
    """Return the names of the token columns under a prefix."""
    prefix = expanded_path(prefix)
    start, end = f"{prefix.name}_packed_", "_document.idx"
    if not prefix.parent.is_dir():
        return []
    names = [path.name for path in prefix.parent.iterdir()]
    return sorted(name[len(start) : -len(end)] for name in names if name.startswith(start) and name.endswith(end))
