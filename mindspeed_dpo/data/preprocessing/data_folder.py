"""Selects the files to read in a folder: those of one format and of the training split, without metadata.

Folders that `datasets` saved are read in the order that they record. `datasets` itself would map their Arrow files into
memory unchecked, so that a damaged file ends the process.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mindspeed_dpo.data.preprocessing.readers import InputError, file_format, supported_suffixes
from mindspeed_dpo.untrusted.errors import reraised_as
from mindspeed_dpo.untrusted.json_text import read_json_object
from mindspeed_dpo.untrusted.text_files import is_file_name

_TRAIN_NAME = re.compile(r"(^|[-._])train", re.IGNORECASE)
_HELD_OUT_NAME = re.compile(r"(^|[-._])(test|valid|validation|val|dev|eval)([-._]|$)", re.IGNORECASE)
_METADATA_NAME = re.compile(
    r"(dataset_infos?|dataset_dict|state|metadata|croissant|config|generation_config|tokenizer|tokenizer_config|"
    r"special_tokens_map)\.json|cache-\w+\.arrow|(readme|licen[cs]e|notice|citation|requirements|changelog)\.txt",
    re.IGNORECASE,
)
"""Files that have the suffix of a data format and hold no rows."""

_PREFERENCE = ("parquet", "arrow", "json", "csv", "txt")
"""Formats in the order in which they are preferred where their numbers of files are equal."""

SelectedFiles = tuple[tuple[Path, ...], tuple[str, ...]]
"""Files to read, and the skipped ones with the reason."""


def select_files(folder: Path) -> SelectedFiles:
    """Return the files of a folder to read, in order, and the skipped ones.

    Files of the most frequent format are read; if some are named after the training split, held-out splits are skipped.
    Folders within the folder are searched if it has no data files itself.

    Raises:
        InputError: The folder contains no file of a supported format, or several splits of which none is `train`.
    """
    if (folder / "dataset_dict.json").is_file():
        return _saved_splits(folder)
    if (folder / "state.json").is_file():
        return _saved_dataset(folder)
    present = sorted(folder.iterdir())
    if not any(map(_holds_rows, present)):
        present = sorted(path for path in folder.rglob("*") if not path.is_dir())
    if not any(map(_holds_rows, present)):
        raise InputError(f"input: the folder {folder} has no file with a supported suffix: {supported_suffixes()}")
    return _select(folder, present)


def _holds_rows(path: Path) -> bool:
    is_data = path.is_file() and file_format(path) is not None and not _is_empty_text(path)
    return is_data and not path.name.startswith(".") and not _METADATA_NAME.fullmatch(path.name)


def _is_empty_text(path: Path) -> bool:
    """Return whether a file has no rows, as programs that write in parts leave some; empty parquet is a lost file."""
    return path.stat().st_size == 0 and file_format(path) in ("json", "csv", "txt")


def _select(folder: Path, present: Sequence[Path]) -> SelectedFiles:
    rows = [path for path in present if _holds_rows(path) and not _in_hidden_folder(path, folder)]
    counts = Counter(file_format(path) for path in rows)
    chosen = max(_PREFERENCE, key=lambda kind: counts[kind])
    candidates = [path for path in rows if file_format(path) == chosen]
    has_train = any(_matches(_TRAIN_NAME, path, folder) for path in candidates)
    held_out = {path for path in candidates if has_train and _matches(_HELD_OUT_NAME, path, folder)}
    skipped = [f"{_name(path, folder)} ({_reason(path, chosen)})" for path in present if path not in candidates]
    skipped += [f"{_name(path, folder)} (held-out split)" for path in candidates if path in held_out]
    return tuple(path for path in candidates if path not in held_out), tuple(skipped)


def _reason(path: Path, chosen: str) -> str:
    if path.is_dir():
        return "a folder"
    if not path.is_file():
        return "no regular file" if path.exists() else "a broken link"
    if _is_empty_text(path):
        return "empty"
    if _METADATA_NAME.fullmatch(path.name):
        return "metadata"
    return f"not {chosen}" if file_format(path) != chosen else "hidden"


def _name(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder))


def _in_hidden_folder(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _matches(pattern: re.Pattern[str], path: Path, folder: Path) -> bool:
    return any(pattern.search(part) for part in path.relative_to(folder).with_name(path.stem).parts)


def _saved_splits(folder: Path) -> SelectedFiles:
    """Select the training split of a folder that `DatasetDict.save_to_disk` wrote."""
    path = folder / "dataset_dict.json"
    with reraised_as(InputError):
        splits = read_json_object(path).texts("splits")
    for split in splits:
        _check_name(split, path)
    train = [split for split in splits if split == "train"] or [split for split in splits if _TRAIN_NAME.search(split)]
    chosen = train or list(splits)
    if len(chosen) != 1:
        advice = f"the splits {', '.join(splits)}; choose one, as input={folder / splits[0]}" if splits else "no splits"
        raise InputError(f"input: {folder} has {advice}")
    files, skipped = _saved_dataset(folder / chosen[0])
    others = tuple(f"{split} (held-out split)" for split in splits if split != chosen[0])
    return files, (*others, *skipped)


def _saved_dataset(folder: Path) -> SelectedFiles:
    """Select the files of a folder that `Dataset.save_to_disk` wrote, in the order of its rows."""
    path = folder / "state.json"
    with reraised_as(InputError):
        names = [entry.text("filename") for entry in read_json_object(path).objects("_data_files", [])]
    for name in names:
        _check_name(name, path)
        if not (folder / name).is_file():
            raise InputError(f"input: {path} lists {name}, which is not in the folder; save the dataset again")
    if not names:
        raise InputError(f"input: {path} lists no data files; save the dataset again")
    rest = sorted(path for path in folder.iterdir() if path.name not in names)
    reasons = {True: "metadata", False: "not listed in state.json"}
    skipped = tuple(f"{path.name} ({reasons[bool(_METADATA_NAME.fullmatch(path.name))]})" for path in rest)
    return tuple(folder / name for name in names), skipped


def _check_name(name: str, path: Path) -> None:
    """Check that a name in a metadata file stays within the folder."""
    if not is_file_name(name):
        raise InputError(f"input: {path} lists {name}, which is not a name in its folder")
