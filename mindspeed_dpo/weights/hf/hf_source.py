"""A Hugging Face folder as a source of weights: safetensors, single or sharded, or `pytorch_model*.bin`.

Only the requested slices of a safetensors file are read. A .bin file is memory-mapped, with the same effect.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.untrusted.errors import MalformedDataError, reraised_as
from mindspeed_dpo.untrusted.json_text import read_json_object
from mindspeed_dpo.untrusted.pickle_names import reject_foreign_objects
from mindspeed_dpo.untrusted.safetensors_files import open_safetensors, safetensors_errors
from mindspeed_dpo.untrusted.text_files import has_file, is_file_name
from mindspeed_dpo.untrusted.torch_archive import read_torch_file
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.hf.hf_config import (
    is_reward_config,
    num_mtp_layers,
    read_hf_config,
    read_model_config,
)
from mindspeed_dpo.weights.hf.hf_fused_experts import (
    fused_shape,
    has_fused_experts,
    is_fused,
    read_fused,
    with_fused_names,
)
from mindspeed_dpo.weights.layer_placement import TPRank
from mindspeed_dpo.weights.model_sizes import Shape
from mindspeed_dpo.weights.name_mapping import RuleTable, TensorEntry, is_tied, model_entries
from mindspeed_dpo.weights.shape_checks import check_shape
from mindspeed_dpo.weights.weight_source import WeightSource

_SCORE = "score.weight"
_EMBEDDING, _OUTPUT_LAYER = "model.embed_tokens.weight", "lm_head.weight"
# Buffers that older releases of transformers stored with the weights.
_BUFFERS = re.compile(r"\.(rotary_emb\.inv_freq|attn\.(masked_)?bias)$")
_LAYER = re.compile(r"model\.layers\.([0-9]{1,9})\.")
_DTYPES = frozenset({"BF16", "F16", "F32", "F64", "bfloat16", "float16", "float32", "float64"})
"""Data types that weights may have, by the names of safetensors and of torch."""
_FILE_NAMES = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)


class HfSource(WeightSource):
    """A folder that `transformers` can load."""

    def __init__(self, path: Path) -> None:
        self.path = self.folder = path
        self._open_files: dict[Path, Any] = {}

    @cached_property
    def is_reward_model(self) -> bool:
        """Whether config.json describes a classifier, or without config.json, whether there is a score head."""
        if (self.path / "config.json").is_file():
            return is_reward_config(read_hf_config(self.path))
        return _SCORE in self._files

    def model_config(self) -> ModelConfig:
        """The architecture of config.json."""
        return read_model_config(self.path)

    def assets(self) -> Path | None:
        """The folder itself holds config and tokenizer."""
        return self.path

    def weight_files(self) -> Sequence[Path]:
        """The shards, sorted by name."""
        return sorted(set(self._files.values()))

    def has(self, entry: TensorEntry) -> bool:
        """Whether all tensors of an entry are stored."""
        return bool(entry.hf_names) and all(name in self._files for name in entry.stored_names)

    def rules(self, model: ModelConfig) -> RuleTable:
        """The rules of the model; a tied embedding may be stored as its output layer alone, experts may be fused."""
        rules = super().rules(model)
        if self._is_fused:
            rules = with_fused_names(rules)
        if not is_tied(model) or self.is_reward_model or _EMBEDDING in self._files or _OUTPUT_LAYER not in self._files:
            return rules
        return tuple(replace(rule, stored=(_OUTPUT_LAYER,)) if rule.hf == (_EMBEDDING,) else rule for rule in rules)

    def name_mismatches(self, model: ModelConfig) -> tuple[list[str], list[str]]:
        """Missing and unexpected names, by the shards or their index; buffers are ignored.

        Raises:
            WeightsError: A tied model's output layer differs from its embedding, or there are layers that predict
                further tokens, and they are not to be left out.
        """
        entries = model_entries(self.rules(model), model)
        required = dict.fromkeys(name for entry in entries for name in entry.stored_names)
        ignored = {name for rule in self.ignored_rules(model) for name in rule.hf}
        others = {name for name in set(self._files) - ignored.union(required) if not _BUFFERS.search(name)}
        mtp_layers = self._mtp_layers(model)
        left_out = {name for name in others if _layer_of(name) in mtp_layers}
        self._leave_out_mtp(sorted(left_out))
        unexpected = sorted(others - left_out)
        if is_tied(model) and _OUTPUT_LAYER in unexpected:
            if not self._tied_copies_are_equal:
                raise WeightsError(
                    f"{self.path} has tie_word_embeddings, but {_OUTPUT_LAYER} differs from {_EMBEDDING}"
                )
            unexpected.remove(_OUTPUT_LAYER)
        return [name for name in required if name not in self._files], unexpected

    def check_shapes(self, entry: TensorEntry, model: ModelConfig) -> None:
        """Compare the shapes and data types in the headers of the shards with the model."""
        for name in entry.stored_names:
            self._check_dtype(name)
        if is_fused(entry):
            (name,) = entry.stored_names
            check_shape(self._shape(name), fused_shape(entry, model), self._files[name], f"{name} of all experts")
            return
        for name, shape in zip(entry.stored_names, entry.layout.hf_shapes(model), strict=True):
            check_shape(self._shape(name), shape, self._files[name], name)

    def read_slices(self, entry: TensorEntry, model: ModelConfig, tp: TPRank) -> tuple[Tensor, ...]:
        """Read only the rank's slices of the weights; dtype and shape of each as in the base class."""
        layout, dim = entry.layout, entry.layout.partition_dim
        if is_fused(entry):
            (name,) = entry.stored_names
            with reraised_as(WeightsError), safetensors_errors(self._files[name], name):
                return read_fused(self._lazy(name), entry, model, tp)
        slices = []
        for name, shape in zip(entry.stored_names, layout.hf_shapes(model), strict=True):
            bounds = None if dim is None else layout.hf_range(shape[dim], model, tp)
            slices.append(self._read(name, dim, bounds))
        return tuple(slices)

    def _mtp_layers(self, model: ModelConfig) -> range:
        """Numbers of the layers that predict further tokens, which follow the model's own."""
        has_config = (self.path / "config.json").is_file()
        count = num_mtp_layers(read_hf_config(self.path)) if has_config else 0
        return range(model.num_layers, model.num_layers + count)

    def _read(self, name: str, dim: int | None, bounds: tuple[int, int] | None) -> Tensor:
        """Read the range `bounds` along `dim` (0 or 1) of a tensor, or all of it."""
        lazy = self._lazy(name)
        with reraised_as(WeightsError), safetensors_errors(self._files[name], name):
            if bounds is None:
                return lazy[:]
            return lazy[bounds[0] : bounds[1]] if dim == 0 else lazy[:, bounds[0] : bounds[1]]

    def _shape(self, name: str) -> Shape:
        lazy = self._lazy(name)
        return tuple(lazy.shape if isinstance(lazy, Tensor) else lazy.get_shape())

    def _check_dtype(self, name: str) -> None:
        """Check that weights are stored as they are computed with: others are quantised, and nothing without scales.

        Raises:
            WeightsError: They are not.
        """
        lazy = self._lazy(name)
        dtype = str(lazy.dtype).removeprefix("torch.") if isinstance(lazy, Tensor) else lazy.get_dtype()
        if dtype not in _DTYPES:
            raise WeightsError(
                f"{self._files[name]}: {name} is stored as {dtype}; give weights that are not quantised, in "
                "bfloat16, float16 or float32"
            )

    def _lazy(self, name: str) -> Any:
        """A tensor of a mapped file, or a slice object of safetensors."""
        handle = self._open(self._files[name])
        return handle[name] if isinstance(handle, dict) else handle.get_slice(name)

    @cached_property
    def _files(self) -> dict[str, Path]:
        """The file of every tensor, from the index or the single file."""
        for single, index in _FILE_NAMES:
            with reraised_as(WeightsError):
                has_single, has_index = has_file(self.path / single), has_file(self.path / index)
            if has_index:
                return self._read_index(self.path / index)
            if has_single:
                file = self.path / single
                return dict.fromkeys(self._names(file), file)
        raise WeightsError(
            f"{self.path} holds no model.safetensors, pytorch_model.bin or their .index.json; is the download complete?"
        )

    def _read_index(self, index: Path) -> dict[str, Path]:
        try:
            weight_map = read_json_object(index).section("weight_map")
            shards = {name: weight_map.text(name) for name in weight_map}
        except MalformedDataError as error:
            raise WeightsError(f"{index} is not a valid index of shards: {error}") from error
        # A shard name with folders in it could point outside; it counts as absent.
        absent = sorted(s for s in set(shards.values()) if not is_file_name(s) or not (self.path / s).is_file())
        if absent:
            names = ", ".join(name[:100] for name in absent[:5])
            raise WeightsError(f"{self.path} lacks {names}, named in {index.name}; download it again")
        files = {name: self.path / shard for name, shard in shards.items()}
        for file in set(files.values()):
            missing = sorted({name for name, other in files.items() if other == file} - set(self._names(file)))
            if missing:
                raise WeightsError(f"{file} lacks {missing[0]}, which should be in it according to {index.name}")
        return files

    def _names(self, file: Path) -> list[str]:
        return list(self._open(file).keys())

    def _open(self, file: Path) -> Any:
        """A safetensors handle, or the mapped dict of a .bin file; cached."""
        if file not in self._open_files:
            self._open_files[file] = _bin_content(file) if file.suffix == ".bin" else _safetensors_handle(file)
        return self._open_files[file]

    @cached_property
    def _is_fused(self) -> bool:
        """Whether experts are stored as in the memory of transformers 5."""
        return has_fused_experts(self._files)

    @cached_property
    def _tied_copies_are_equal(self) -> bool:
        """Whether the output layer that a tied model may store in addition equals the embedding."""
        return torch.equal(self._lazy(_OUTPUT_LAYER)[:], self._lazy(_EMBEDDING)[:])


def _layer_of(name: str) -> int | None:
    match = _LAYER.match(name)
    return int(match[1]) if match else None


def _safetensors_handle(file: Path) -> Any:
    with reraised_as(WeightsError):
        return open_safetensors(file)


def _bin_content(file: Path) -> dict[str, Tensor]:
    with reraised_as(WeightsError):
        content = read_torch_file(file)
        reject_foreign_objects(content, file, "the state dict")
    is_state_dict = isinstance(content, dict) and all(map(_is_named_tensor, content.items()))
    if not is_state_dict:
        raise WeightsError(f"{file} is not a state dict of tensors")
    return content


def _is_named_tensor(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor)
