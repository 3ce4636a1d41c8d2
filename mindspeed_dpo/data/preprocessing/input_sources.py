"""Resolves `input` to raw data: a file, the files of a folder, or a dataset of the Hugging Face hub."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from mindspeed_dpo.data.preprocessing.data_folder import select_files
from mindspeed_dpo.data.preprocessing.readers import InputError, RawRow, column_names, file_format, read_file
from mindspeed_dpo.data.preprocessing.settings import PreprocessSettings
from mindspeed_dpo.data.tokenization.examples import RowDropped
from mindspeed_dpo.storage.nearest_path import nearest_path_advice
from mindspeed_dpo.storage.user_paths import expanded_path
from mindspeed_dpo.untrusted.errors import reraised_as
from mindspeed_dpo.untrusted.json_text import read_json_object
from mindspeed_dpo.untrusted.text_files import has_file

logger = logging.getLogger(__name__)

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_COLUMN_SCAN_ROWS = 1000
"""Number of rows whose columns are collected in any case; a row may lack a column that later ones have."""


@dataclass(frozen=True)
class RawData:
    """Raw rows, which can be iterated over several times and in several processes.

    Example:
        RawData("data", (Path("data/train.jsonl"),), skipped_files=("README.md (not json)",), settings=settings)

    Attributes:
        name: Name for messages.
        files: Files with the rows; empty for a hub dataset.
        skipped_files: Files of the folder that are not read, with the reason.
        settings: Settings of the run.
    """

    name: str
    files: tuple[Path, ...]
    skipped_files: tuple[str, ...]
    settings: PreprocessSettings

    def rows(self, columns: Collection[str] | None = None) -> Iterator[RawRow]:
        """Yield the rows in order, at most `max_samples`.

        Args:
            columns: Columns that will be used; rows may lack others, which can then not make reading fail. None reads
                all.
        """
        files = (read_file(file, columns) for file in self.files)
        source = itertools.chain.from_iterable(files) if self.files else _hub_rows(self.settings, columns)
        return itertools.islice(source, self.settings.max_samples)

    def columns(self, needed: Collection[str] = ()) -> list[str]:
        """Return the columns that the files name, and those of the first rows, in order of appearance.

        Args:
            needed: Columns for which further rows are read until all have appeared.

        Raises:
            InputError: There are no rows.
        """
        if not self.files and (names := _hub_column_names(self.settings)):
            return names
        named = [name for file in self.files for name in column_names(file) or ()]
        seen: dict[str, None] = dict.fromkeys(named)
        num_rows, unreadable = 0, None
        # Of files that name their columns no value is needed, only that there is a row.
        for num_rows, row in enumerate(self.rows(() if named else None), start=1):
            if isinstance(row, RowDropped):
                unreadable = unreadable or row
            else:
                seen.update(dict.fromkeys(row))
            if named or (num_rows >= _COLUMN_SCAN_ROWS and seen.keys() >= set(needed)):
                break
        if not seen or not num_rows:
            reason = f", of {num_rows} none can be read: {unreadable.detail}" if unreadable else ""
            raise InputError(f"{self.name} has no rows{reason}")
        return list(seen)


def find_input(settings: PreprocessSettings) -> RawData:
    """Resolve `input` to raw data.

    Raises:
        FileNotFoundError: `input` is not an existing path and does not have the form of a hub name.
        InputError: The folder contains no file of a supported format, or the path is a pipe or a broken link.
    """
    path = expanded_path(settings.input)
    if path.is_file():
        return RawData(str(path), (path,), (), settings)
    if path.is_dir():
        files, skipped_files = select_files(path)
        return RawData(str(path), files, skipped_files, settings)
    with reraised_as(InputError):
        has_file(path)
    nearest = nearest_path_advice(path)
    if nearest or not _HUB_NAME.fullmatch(settings.input) or file_format(path):
        raise FileNotFoundError(f"input: there is no file or folder {path}{nearest}")
    logger.info("input: there is no file or folder %s; looking for it on the Hugging Face hub", path)
    return RawData(settings.input, (), (), settings)


def _hub_rows(settings: PreprocessSettings, columns: Collection[str] | None) -> Iterator[RawRow]:
    with _hub_errors(settings):
        dataset = _hub_dataset(settings)
        # A streamed dataset may not know its columns.
        present = [] if columns is None else [name for name in dataset.column_names or () if name in columns]
        yield from dataset.select_columns(present) if present else dataset


def _hub_column_names(settings: PreprocessSettings) -> list[str]:
    with _hub_errors(settings):
        return list(_hub_dataset(settings).column_names or ())


def _hub_dataset(settings: PreprocessSettings) -> Any:
    options: dict[str, Any] = {"split": "train", **_hub_parameters(settings)}
    return datasets.load_dataset(
        options.pop("path", settings.input),
        streaming=settings.streaming,
        cache_dir=str(expanded_path(settings.cache_dir)),
        download_mode="force_redownload" if settings.overwrite_cache else None,
        **options,
    )


@contextmanager
def _hub_errors(settings: PreprocessSettings) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"input: {settings.input} is not an existing file or folder and could not be loaded from the hub: {reason}"
        ) from error


def _hub_parameters(settings: PreprocessSettings) -> dict[str, Any]:
    if settings.hf_datasets_params is None:
        return {}
    path = expanded_path(settings.hf_datasets_params)
    if not path.is_file():
        raise FileNotFoundError(f"hf_datasets_params: there is no file {path}")
    with reraised_as(InputError, "hf_datasets_params should name a JSON object of arguments"):
        return read_json_object(path).plain()
