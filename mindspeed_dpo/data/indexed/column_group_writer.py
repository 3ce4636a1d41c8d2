"""Writing of a column group: to a temporary folder next to its destination, whose files are then renamed.

A killed run leaves existing files unchanged. Its own remains are deleted by the next run that writes the same group.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.data.indexed.column_group import column_stem, replacing_path, text_columns_path
from mindspeed_dpo.data.indexed.column_group_metadata import meta_path, read_meta
from mindspeed_dpo.data.indexed.indexed_dataset import IndexedDatasetReader, IndexedDatasetWriter
from mindspeed_dpo.data.indexed.text_columns import TextColumnsReader, TextColumnsWriter
from mindspeed_dpo.storage.process_lock import LockHeldError, ProcessLock
from mindspeed_dpo.storage.user_paths import expanded_path
from mindspeed_dpo.storage.write_errors import WriteError, write_errors, write_failure

logger = logging.getLogger(__name__)


_LOCK = ".lock"


def partial_prefix(prefix: Path) -> str:
    """Return the name prefix of folders with unfinished files of a group."""
    return f".{prefix.name}_packed_partial_"


def _begin_folder(prefix: Path) -> tuple[Path, ProcessLock]:
    """Create a temporary folder that stays locked while this process fills it."""
    number = secrets.token_hex(4)
    # Locked before it gets its final name, by which other runs search for leftovers.
    unnamed = prefix.with_name(f".{prefix.name}_packed_new_{number}")
    folder = prefix.with_name(f"{partial_prefix(prefix)}{number}")
    unnamed.mkdir()
    lock = ProcessLock(unnamed / _LOCK)
    lock.acquire()
    unnamed.rename(folder)
    lock.path = folder / _LOCK
    return folder, lock


def _remove_remains(prefix: Path) -> None:
    """Delete the unfinished files of runs that were killed; those of a run in progress stay."""
    for folder in sorted(prefix.parent.glob(f"{glob.escape(partial_prefix(prefix))}*")):
        try:
            with ProcessLock(folder / _LOCK):
                shutil.rmtree(folder)
            logger.info("%s was left by an interrupted run and is deleted", folder)
        except LockHeldError as error:
            logger.warning("%s belongs to %s, which also writes %s", folder, error.holder, prefix)
        except FileNotFoundError:
            continue  # its process has finished meanwhile


class ColumnGroupWriter:
    """Writes the columns of one group row by row to a temporary folder; `commit` moves them to their destination."""

    def __init__(self, prefix: str | Path, columns: Sequence[str], text_columns: Sequence[str] = ()) -> None:
        """Start a group and create its parent folder if necessary.

        Args:
            prefix: Path prefix of the files.
            columns: Names of the token columns.
            text_columns: Names of the text columns; if empty, no file is written for them.
        """
        self.prefix = expanded_path(prefix)
        self.columns = tuple(columns)
        self.text_columns = tuple(text_columns)
        self.committed = False
        with write_errors(self.prefix):
            self.prefix.parent.mkdir(parents=True, exist_ok=True)
            _remove_remains(self.prefix)
            self._folder, self._lock = _begin_folder(self.prefix)
        self._writers = {
            column: IndexedDatasetWriter(column_stem(self._folder / self.prefix.name, column)) for column in columns
        }
        staged = text_columns_path(self._folder / self.prefix.name, self.columns)
        self._texts = TextColumnsWriter(staged, text_columns) if text_columns else None

    @property
    def folder(self) -> Path:
        """The temporary folder; whatever else is put there must be removed before `commit`."""
        return self._folder

    @property
    def rows(self) -> int:
        """Number of rows written so far."""
        return len(self._writers[self.columns[0]].lengths)

    def append(
        self, row: Mapping[str, Sequence[int] | NDArray[np.integer]], texts: Mapping[str, str] | None = None
    ) -> None:
        """Append one row to every column: token ids [length] of integer dtype, and texts by name.

        Raises:
            WriteError: A file cannot be written.
        """
        try:
            for column, writer in self._writers.items():
                writer.append(row[column])
            if self._texts is not None:
                self._texts.append(texts or {})
        except OSError as error:
            raise WriteError(write_failure(self.prefix, error)) from error

    def append_all(self, readers: Mapping[str, IndexedDatasetReader], texts: TextColumnsReader | None = None) -> None:
        """Append all rows of another group with the same columns.

        Raises:
            WriteError: A file cannot be written.
        """
        with write_errors(self.prefix):
            for column, writer in self._writers.items():
                writer.append_all(readers[column])
            if self._texts is not None and texts is not None:
                self._texts.append_all(texts)

    def commit(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """Move the files to their destination, replacing existing ones; return the metadata as written.

        Raises:
            WriteError: A file cannot be written.
        """
        with write_errors(self.prefix):
            return self._commit(meta)

    def _commit(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        for writer in self._writers.values():
            writer.close()
        hashes = [self._writers[column].content_hash for column in sorted(self.columns)]
        if self._texts is not None:
            self._texts.close()
            hashes.append(self._texts.content_hash)
        full = {
            **meta,
            "columns": list(self.columns),
            **({"text_columns": list(self.text_columns)} if self.text_columns else {}),
            "rows": self.rows,
            "content_hash": hashlib.sha256("".join(hashes).encode()).hexdigest(),
        }
        staged_meta = meta_path(self._folder / self.prefix.name)
        staged_meta.write_text(json.dumps(full, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        self._move_into_place()
        self.committed = True
        return full

    def _move_into_place(self) -> None:
        """Rename all files; a marker file exists while old and new files are mixed."""
        staged = sorted(path for path in self._folder.iterdir() if path.name != _LOCK)
        for path in staged:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        outdated = self._outdated()
        marker = replacing_path(self.prefix)
        marker.touch()
        for path in staged:
            os.replace(path, self.prefix.parent / path.name)
        for path in outdated:
            path.unlink(missing_ok=True)
        marker.unlink()
        self._lock.release()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _outdated(self) -> list[Path]:
        """Return the obsolete files of the replaced group; a group of another kind may share the prefix."""
        before = set((read_meta(self.prefix) or {}).get("columns") or ())
        outdated = before - set(self.columns) if before & set(self.columns) else set()
        stems = [column_stem(self.prefix, column) for column in outdated]
        files = [stem.with_name(f"{stem.name}.{suffix}") for stem in stems for suffix in ("bin", "idx")]
        return files if self.text_columns else [*files, text_columns_path(self.prefix, self.columns)]

    def discard(self) -> None:
        """Delete the unfinished files; files at the destination are unchanged."""
        writers: list[IndexedDatasetWriter | TextColumnsWriter] = [*self._writers.values()]
        writers += [self._texts] if self._texts is not None else []
        for writer in writers:
            with contextlib.suppress(OSError):  # buffered bytes that a full disk does not take
                writer.abandon()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.release()


@contextlib.contextmanager
def writing(
    prefix: str | Path, columns: Sequence[str], text_columns: Sequence[str] = ()
) -> Iterator[ColumnGroupWriter]:
    """Yield a writer, and discard its files unless it was committed."""
    writer = ColumnGroupWriter(prefix, columns, text_columns)
    try:
        yield writer
    finally:
        if not writer.committed:
            writer.discard()
