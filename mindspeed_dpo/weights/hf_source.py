"""A Hugging Face folder as a source of weights: safetensors, single or indexed, or `pytorch_model*.bin`.

Of a safetensors file only the slices asked for are read; a .bin file is mapped, so the same holds there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.base import WeightSource, check_dtypes, check_shape
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.hf_config import is_reward_config, model_config_from_hf, read_hf_config
from mindspeed_dpo.weights.layouts import Cut
from mindspeed_dpo.weights.rules import Entry, is_tied, model_entries
from mindspeed_dpo.weights.safe_pickle import refuse_placeholders
from mindspeed_dpo.weights.torch_file import read_torch_file

SCORE = "score.weight"
# Buffers that older transformers stored beside the weights.
_BUFFERS = re.compile(r"\.(rotary_emb\.inv_freq|attn\.(masked_)?bias)$")


class HfSource(WeightSource):
    """A folder that `transformers` could load."""

    def __init__(self, path: Path) -> None:
        self.path = self.folder = path
        self._open_files: dict[Path, Any] = {}

    @cached_property
    def is_reward_model(self) -> bool:
        """By config.json, and where there is none by the tensors."""
        if (self.path / "config.json").is_file():
            return is_reward_config(read_hf_config(self.path))
        return SCORE in self._places

    def model_config(self) -> ModelConfig:
        """The architecture of config.json."""
        return model_config_from_hf(read_hf_config(self.path))

    def assets(self) -> Path | None:
        """The folder itself."""
        return self.path

    def weight_files(self) -> Sequence[Path]:
        """The shards."""
        return sorted(set(self._places.values()))

    def has(self, entry: Entry) -> bool:
        """Whether all tensors of an entry are there."""
        return bool(entry.hf_names) and all(name in self._places for name in entry.hf_names)

    def unfit_names(self, model: ModelConfig) -> tuple[list[str], list[str]]:
        """By the names of the shards or their index; buffers are overlooked.

        Raises:
            WeightsError: A tied model's output layer differs from its embedding.
        """
        wanted = [name for entry in model_entries(self.rules(model), model) for name in entry.hf_names]
        overlooked = {name for rule in self.overlooked(model) for name in rule.hf}
        unknown = sorted(name for name in set(self._places) - overlooked.union(wanted) if not _BUFFERS.search(name))
        if is_tied(model) and "lm_head.weight" in unknown:
            if not self._tied_copy_agrees:
                raise WeightsError(
                    f"{self.path} has tie_word_embeddings, but lm_head.weight differs from model.embed_tokens.weight"
                )
            unknown.remove("lm_head.weight")
        return [name for name in wanted if name not in self._places], unknown

    def check_shapes(self, entry: Entry, model: ModelConfig) -> None:
        """By the headers of the shards."""
        for name, shape in zip(entry.hf_names, entry.rule.kind.hf_shapes(model), strict=True):
            lazy = self._lazy(name)
            found = lazy.shape if isinstance(lazy, Tensor) else lazy.get_shape()
            check_shape(tuple(found), shape, self._places[name], name)

    def pieces(self, entry: Entry, model: ModelConfig, cut: Cut) -> tuple[Tensor, ...]:
        """Read the rank's slices, nothing more."""
        kind = entry.rule.kind
        found = []
        for name, shape in zip(entry.hf_names, kind.hf_shapes(model), strict=True):
            bounds = None if kind.dim is None else kind.hf_range(shape[kind.dim], model, cut)
            found.append(self._read(name, kind.dim, bounds))
        check_dtypes(found, ", ".join(entry.hf_names))
        return tuple(found)

    def _read(self, name: str, dim: int | None, bounds: tuple[int, int] | None) -> Tensor:
        """Indices `bounds` along `dim` (0 or 1) of a tensor, or all of it."""
        lazy = self._lazy(name)
        try:
            if bounds is None:
                return lazy[:]
            return lazy[bounds[0] : bounds[1]] if dim == 0 else lazy[:, bounds[0] : bounds[1]]
        except SafetensorError as error:
            raise WeightsError(f"{self._places[name]}: {name} cannot be read: {error}") from error

    def _lazy(self, name: str) -> Any:
        """A tensor of a mapped file, or what safetensors gives to slice from."""
        handle = self._open(self._places[name])
        return handle[name] if isinstance(handle, dict) else handle.get_slice(name)

    @cached_property
    def _places(self) -> dict[str, Path]:
        """The file of every tensor, from the index or from the single file."""
        for single, many in (("model.safetensors", "model.safetensors.index.json"),
                             ("pytorch_model.bin", "pytorch_model.bin.index.json")):  # fmt: skip
            if (self.path / many).is_file():
                return self._indexed(self.path / many)
            if (self.path / single).is_file():
                file = self.path / single
                return dict.fromkeys(self._names(file), file)
        raise WeightsError(
            f"{self.path} holds no model.safetensors, pytorch_model.bin or their .index.json; is the download complete?"
        )

    def _indexed(self, index: Path) -> dict[str, Path]:
        try:
            names: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        except (json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
            raise WeightsError(f"{index} is not a valid index of shards: {error}") from error
        # A name with folders in it would lead outside; such a shard counts as absent.
        absent = sorted(s for s in set(names.values()) if Path(s).name != s or not (self.path / s).is_file())
        if absent:
            raise WeightsError(f"{self.path} lacks {', '.join(absent)}, named in {index.name}; download it again")
        places = {name: self.path / shard for name, shard in names.items()}
        for file in set(places.values()):
            lacking = sorted({name for name, place in places.items() if place == file} - set(self._names(file)))
            if lacking:
                raise WeightsError(f"{file} lacks {lacking[0]}, which {index.name} places there")
        return places

    def _names(self, file: Path) -> list[str]:
        return list(self._open(file).keys())

    def _open(self, file: Path) -> Any:
        """A safetensors handle, or the mapped dict of a .bin file; kept open."""
        if file not in self._open_files:
            self._open_files[file] = _bin_content(file) if file.suffix == ".bin" else _safetensors_handle(file)
        return self._open_files[file]

    @cached_property
    def _tied_copy_agrees(self) -> bool:
        """A tied model may store its output layer nevertheless; then it must be the embedding."""
        return torch.equal(self._lazy("lm_head.weight")[:], self._lazy("model.embed_tokens.weight")[:])


def _safetensors_handle(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file} is damaged or truncated: {error}") from error


def _bin_content(file: Path) -> dict[str, Tensor]:
    content = read_torch_file(file)
    refuse_placeholders(content, file, "the state dict")
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{file} is not a state dict of tensors")
    return content
