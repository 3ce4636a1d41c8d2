"""What `input` means: a file, the files of a folder, or a data set of the Hugging Face hub."""

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

from mindspeed_dpo.data.preprocessing.readers import InputError, all_endings, format_of, read_file
from mindspeed_dpo.data.preprocessing.settings import PreprocessSettings
from mindspeed_dpo.data.tokenization.examples import Row

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_TRAIN = re.compile(r"(^|[-._])train", re.IGNORECASE)
_HELD_OUT = re.compile(r"(^|[-._])(test|valid|validation|val|dev|eval)([-._]|$)", re.IGNORECASE)
_ROWS_LOOKED_AT = 1000
"""Rows that columns are gathered from: the first one alone may lack an optional column."""


@dataclass(frozen=True)
class RawData:
    """Raw rows that can be gone through more than once.

    Attributes:
        name: For messages.
        files: Where the rows come from; empty for the hub.
        left_out: Files of the folder that are not read, with the reason.
        settings: How a hub data set is loaded.
    """

    name: str
    files: tuple[Path, ...]
    left_out: tuple[str, ...]
    settings: PreprocessSettings

    def rows(self) -> Iterator[Row]:
        """All rows in order, at most `max_samples`."""
        source = itertools.chain.from_iterable(map(read_file, self.files)) if self.files else _hub_rows(self.settings)
        return itertools.islice(source, self.settings.max_samples)

    def columns(self) -> list[str]:
        """The columns of the first rows, in order of appearance.

        Raises:
            InputError: There are no rows.
        """
        seen: dict[str, None] = {}
        for row in itertools.islice(self.rows(), _ROWS_LOOKED_AT):
            seen.update(dict.fromkeys(row))
        if not seen:
            raise InputError(f"{self.name} has no rows")
        return list(seen)


def find_input(settings: PreprocessSettings) -> RawData:
    """Settle what `input` names.

    Raises:
        FileNotFoundError: It is no path and does not look like a name on the hub.
        InputError: A folder without a readable file.
    """
    path = Path(settings.input).expanduser()
    if path.is_file():
        return RawData(str(path), (path,), (), settings)
    if path.is_dir():
        files, left_out = _files_of_folder(path)
        return RawData(str(path), files, left_out, settings)
    if not _HUB_NAME.fullmatch(settings.input) or format_of(path):
        raise FileNotFoundError(f"input: there is no file or folder {path}")
    return RawData(settings.input, (), (), settings)


def _files_of_folder(folder: Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """The files of the most frequent format; where some are named after the training split, not those held out."""
    present = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    counts = Counter(kind for kind in map(format_of, present) if kind)
    if not counts:
        raise InputError(f"input: the folder {folder} holds no file ending in {all_endings()}")
    chosen = counts.most_common(1)[0][0]
    of_format = [path for path in present if format_of(path) == chosen]
    has_train = any(_TRAIN.search(path.stem) for path in of_format)
    files = [path for path in of_format if not (has_train and _HELD_OUT.search(path.stem))]
    left_out = [f"{path.name} (not {chosen})" for path in present if path not in of_format]
    left_out += [f"{path.name} (held-out split)" for path in of_format if path not in files]
    return tuple(files), tuple(left_out)


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
            f"input: {settings.input} is no file or folder here, and could not be loaded from the hub: {reason}"
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
