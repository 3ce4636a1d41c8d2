"""The files of a Megatron checkpoint of one file per rank: their names, and safe reading of their content.

What the tensors in them are is left to `legacy_source`, safe reading of pickles to `untrusted.torch_archive`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from mindspeed_dpo.untrusted.errors import reraised_as
from mindspeed_dpo.untrusted.pickle_names import reject_foreign_objects
from mindspeed_dpo.untrusted.torch_archive import read_torch_file
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.layer_placement import ParallelLayout
from mindspeed_dpo.weights.legacy.legacy_args import plain_args
from mindspeed_dpo.weights.legacy.rank_folders import RANK_FILE, rank_folder

CHECKPOINT_VERSION = 3.0

StateDict = Mapping[str, Tensor]
"""Weights of a model chunk by name, in the shape of this rank's part and any dtype."""
Content = tuple[argparse.Namespace, list[StateDict]]


class RankFiles:
    """The rank files of one iteration folder, opened at the first access."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._chunks: dict[Path, list[StateDict]] = {}

    @cached_property
    def first(self) -> Path:
        """The file of the first rank."""
        return sorted(self.folder.glob("mp_rank_*"))[0] / RANK_FILE

    @cached_property
    def first_content(self) -> Content:
        """The args and the chunks of the first rank: its weights, each in the shape of its part and any dtype."""
        return read_rank_file(self.first)

    @property
    def folder_names(self) -> set[str]:
        """The names of all rank folders."""
        return {folder.name for folder in self.folder.glob("mp_rank_*")}

    def path(self, layout: ParallelLayout, tp_rank: int, pp_rank: int, ep_rank: int) -> Path:
        """The file of a rank."""
        return self.folder / rank_folder(layout, tp_rank, pp_rank, ep_rank) / RANK_FILE

    def chunks(self, file: Path) -> list[StateDict]:
        """The memory-mapped weights of a file, by chunk: each in the shape of the rank's part and any dtype.

        Raises:
            WeightsError: The file is damaged, or has another number of chunks than the first.
        """
        if file not in self._chunks:
            chunks = self.first_content[1] if file == self.first else read_rank_file(file)[1]
            if len(chunks) != len(self.first_content[1]):
                raise WeightsError(f"{file} holds {len(chunks)} virtual chunks, unlike {self.first}")
            self._chunks[file] = chunks
        return self._chunks[file]


def read_rank_file(file: Path) -> Content:
    """The args and the chunks of one rank file, with memory-mapped weights in the shape of its part and any dtype.

    Raises:
        WeightsError: The file is damaged, holds something else than weights, or is of an older version.
    """
    with reraised_as(WeightsError):
        content = read_torch_file(file)
    if not isinstance(content, dict) or not isinstance(content.get("args"), argparse.Namespace):
        raise WeightsError(f"{file} is not a Megatron checkpoint: it has no args")
    others = {key: value for key, value in content.items() if key != "args"}
    with reraised_as(WeightsError):
        reject_foreign_objects(others, file, "the checkpoint")
    _check_version(content.get("checkpoint_version"), file)
    chunks = [content["model"]] if "model" in content else list(_numbered_chunks(content))
    if not chunks or not all(isinstance(chunk, Mapping) for chunk in chunks):
        raise WeightsError(f"{file} holds no model")
    for chunk in chunks:
        _check_tensors(chunk, file)
    return plain_args(content["args"]), chunks


def _check_version(version: object, file: Path) -> None:
    if type(version) not in (int, float) or version != CHECKPOINT_VERSION:
        described = version if type(version) in (int, float, type(None)) else f"of type {type(version).__name__}"
        raise WeightsError(
            f"{file} has checkpoint_version {described}; only {CHECKPOINT_VERSION} is supported, because older "
            "versions order query, key and value differently"
        )


def _check_tensors(chunk: Mapping[Any, object], file: Path) -> None:
    for name, value in chunk.items():
        if not isinstance(name, str):
            raise WeightsError(f"{file}: the model has a key of type {type(name).__name__}, expected a name")
        if not isinstance(value, Tensor) and "_extra_state" not in name:
            raise WeightsError(f"{file}: {name} is a {type(value).__name__}, expected a tensor")


def _numbered_chunks(content: Mapping[str, StateDict]) -> Iterator[StateDict]:
    """The values of `model0`, `model1`, … that virtual pipeline stages are stored as."""
    chunk = 0
    while f"model{chunk}" in content:
        yield content[f"model{chunk}"]
        chunk += 1
