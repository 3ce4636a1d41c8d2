"""Resolves `input` to raw data: a file, the files of a folder, or a dataset of the Hugging Face hub."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from mindspeed_dpo.data.preprocessing.readers import InputError, file_format, read_file, supported_suffixes
from mindspeed_dpo.data.preprocessing.settings import PreprocessSettings
from mindspeed_dpo.data.tokenization.examples import Row

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_TRAIN_NAME = re.compile(r"(^|[-._])train", re.IGNORECASE)
_HELD_OUT_NAME = re.compile(r"(^|[-._])(test|valid|validation|val|dev|eval)([-._]|$)", re.IGNORECASE)
_COLUMN_SCAN_ROWS = 1000
"""Number of rows whose columns are collected; a single row may lack an optional column."""


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

    def rows(self) -> Iterator[Row]:
        """Yield the rows in order, at most `max_samples`."""
        source = itertools.chain.from_iterable(map(read_file, self.files)) if self.files else _hub_rows(self.settings)
        return itertools.islice(source, self.settings.max_samples)

    def columns(self) -> list[str]:
        """Return the columns of the first rows, in order of appearance.

        Raises:
            InputError: There are no rows.
        """
        seen: dict[str, None] = {}
        for row in itertools.islice(self.rows(), _COLUMN_SCAN_ROWS):
            seen.update(dict.fromkeys(row))
        if not seen:
            raise InputError(f"{self.name} has no rows")
        return list(seen)


def find_input(settings: PreprocessSettings) -> RawData:
    """Resolve `input` to raw data.

    Raises:
        FileNotFoundError: `input` is not an existing path and does not have the form of a hub name.
        InputError: The folder contains no file of a supported format.
    """
    path = Path(settings.input).expanduser()
    if path.is_file():
        return RawData(str(path), (path,), (), settings)
    if path.is_dir():
        files, skipped_files = _list_files(path)
        return RawData(str(path), files, skipped_files, settings)
    if not _HUB_NAME.fullmatch(settings.input) or file_format(path):
        raise FileNotFoundError(f"input: there is no file or folder {path}")
    return RawData(settings.input, (), (), settings)


def _list_files(folder: Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Return the files to read and the skipped ones.

    Files of the most frequent format are read. If some are named after the training split, held-out splits are skipped.
    """
    present = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    counts = Counter(kind for kind in map(file_format, present) if kind)
    if not counts:
        raise InputError(f"input: the folder {folder} has no file with a supported suffix: {supported_suffixes()}")
    chosen = counts.most_common(1)[0][0]
    candidates = [path for path in present if file_format(path) == chosen]
    has_train = any(_TRAIN_NAME.search(path.stem) for path in candidates)
    files = [path for path in candidates if not (has_train and _HELD_OUT_NAME.search(path.stem))]
    skipped_files = [f"{path.name} (not {chosen})" for path in present if path not in candidates]
    skipped_files += [f"{path.name} (held-out split)" for path in candidates if path not in files]
    return tuple(files), tuple(skipped_files)


def _hub_rows(settings: PreprocessSettings) -> Iterator[Row]:
    options: dict[str, Any] = {"split": "train", **_hub_parameters(settings)}
    try:
        yield from datasets.load_dataset(
            options.pop("path", settings.input),
            streaming=settings.streaming,
            cache_dir=str(Path(settings.cache_dir).expanduser()),
            download_mode="force_redownload" if settings.overwrite_cache else None,
            **options,
        )
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"input: {settings.input} is not an existing file or folder and could not be loaded from the hub: {reason}"
        ) from error


def _hub_parameters(settings: PreprocessSettings) -> dict[str, Any]:
    if settings.hf_datasets_params is None:
        return {}
    path = Path(settings.hf_datasets_params).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"hf_datasets_params: there is no file {path}")
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, TypeError, ValueError) as error:
        raise InputError(f"hf_datasets_params: {path} should be a JSON object of arguments: {error}") from error
