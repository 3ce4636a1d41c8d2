"""A training checkpoint in megatron-core's `torch_dist` format as a source of weights.

Tensors are stored unsharded, in chunks spread over files; the layers of the decoder are stacked along a leading dim.
Reading the files is left to `untrusted.dist_checkpoint`, writing them to `engine`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.storage.digests import DamageError, FileDigest, digests_from_json
from mindspeed_dpo.untrusted.dist_checkpoint import METADATA_FILE, DistCheckpoint
from mindspeed_dpo.untrusted.dist_checkpoint_metadata import StoredTensor
from mindspeed_dpo.untrusted.errors import reraised_as
from mindspeed_dpo.untrusted.json_text import read_json_object
from mindspeed_dpo.untrusted.text_files import has_file
from mindspeed_dpo.untrusted.tiling import Box
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.hf.hf_assets import find_assets
from mindspeed_dpo.weights.layer_placement import TPRank
from mindspeed_dpo.weights.name_mapping import SCORE_HEAD, TensorEntry, model_entries
from mindspeed_dpo.weights.shape_checks import check_mcore_shape
from mindspeed_dpo.weights.weight_source import WeightSource

COMPLETE_FILE, DESCRIPTION_FILE = "metadata.json", "mindspeed_dpo.json"
_MODEL_PREFIXES = ("embedding.", "decoder.", "output_layer.", "rm_head.")


class DistSource(WeightSource):
    """An iteration folder of `*.distcp` files."""

    def __init__(self, path: Path, folder: Path) -> None:
        """Open the checkpoint `path`, whose iteration folder is `folder`.

        Raises:
            WeightsError: The iteration is incomplete.
        """
        self.path = path
        self.folder = folder
        absent = [name for name in (METADATA_FILE, COMPLETE_FILE) if not (folder / name).is_file()]
        if absent:
            raise WeightsError(f"{folder} lacks {', '.join(absent)}: the checkpoint is incomplete")

    @property
    def is_reward_model(self) -> bool:
        """Whether a score head is stored."""
        return SCORE_HEAD in self._tensors

    def model_config(self) -> ModelConfig:
        """The architecture that is recorded in the checkpoint.

        Raises:
            WeightsError: There is no such record, or it is damaged.
        """
        file = self.folder / DESCRIPTION_FILE
        try:
            with reraised_as(WeightsError):
                return ModelConfig.from_dict(read_json_object(file).section("model").plain())
        except FileNotFoundError as error:
            raise WeightsError(f"{file} does not exist, so the model is unknown; give --hf-cfg-dir") from error
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{file} does not describe a model: {error}") from error

    def assets(self) -> Path | None:
        """The Hugging Face files stored in the checkpoint."""
        return find_assets(self.path)

    def weight_files(self) -> Sequence[Path]:
        """The files of the chunks, and their metadata."""
        return [*sorted(self.folder.glob("*.distcp")), self.folder / METADATA_FILE]

    def fingerprint(self) -> str:
        """SHA-256 of the digests of the weight files where there are such, else of their contents."""
        names = sorted(file.name for file in self.weight_files())
        if not self._digests.keys() >= set(names):
            return super().fingerprint()
        files = {name: self._digests[name].as_json() for name in names}
        return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()

    def has(self, entry: TensorEntry) -> bool:
        """Whether the tensor is stored."""
        return self._find(entry) is not None

    def name_mismatches(self, model: ModelConfig) -> tuple[list[str], list[str]]:
        """Missing and unexpected names, by the metadata; optimizer states and `_extra_state` are ignored."""
        missing, expected = [], {rule.mcore for rule in self.ignored_rules(model)}
        for entry in model_entries(self.rules(model), model):
            location = self._find(entry)
            if location is not None:
                expected.add(location[0])
            elif not entry.rule.optional:
                missing.append(entry.global_name)
        return missing, sorted(key for key in self._tensors if key.startswith(_MODEL_PREFIXES) and key not in expected)

    def check_shapes(self, entry: TensorEntry, model: ModelConfig) -> None:
        """Compare the shapes in the metadata with the model.

        Raises:
            WeightsError: A shape, or the number of layers or experts, differs.
        """
        key, leading = self._locate(entry)
        shape = self._tensors[key].shape
        sizes = {"layers": model.num_layers, "experts": model.num_experts}
        for what, actual in zip(leading, shape, strict=False):
            if actual != sizes[what]:
                raise WeightsError(f"{self.folder} holds {actual} {what}, but the model has {sizes[what]}")
        check_mcore_shape(shape[len(leading) :], entry.layout, model, 1, self.folder, key)

    def read_slices(self, entry: TensorEntry, model: ModelConfig, tp: TPRank) -> tuple[Tensor, ...]:
        """Read the rank's blocks of the stored weights; dtype and shape of each slice as in the base class."""
        layout, (key, leading) = entry.layout, self._locate(entry)
        shape = self._tensors[key].shape[len(leading) :]
        leading_box = tuple((index, index + 1) for index in leading.values())
        boxes = [
            tuple(bounds if dim == layout.partition_dim else (0, size) for dim, size in enumerate(shape))
            for bounds in layout.mcore_ranges(model, tp)
        ]
        blocks = [self._read(key, leading_box + box).flatten(0, len(leading)) for box in boxes]
        return layout.to_hf(blocks[0] if len(blocks) == 1 else torch.cat(blocks, layout.partition_dim or 0), model)

    def keys(self) -> list[str]:
        """Names of all stored tensors."""
        return list(self._tensors)

    def read_tensor(self, key: str) -> Tensor:
        """Read weights of any shape and dtype by their stored name, unsharded.

        Raises:
            WeightsError: Part of it is missing.
        """
        return self._read(key, tuple((0, size) for size in self._tensors[key].shape))

    def _find(self, entry: TensorEntry) -> tuple[str, dict[str, int]] | None:
        """The key of an entry and its indices along the leading dims, where layers or experts are stacked."""
        return next(((name, leading) for name, leading in entry.stacked_names() if name in self._tensors), None)

    def _locate(self, entry: TensorEntry) -> tuple[str, dict[str, int]]:
        """Return the result of `_find` for an entry that must be stored."""
        location = self._find(entry)
        if location is None:
            raise WeightsError(f"{self.folder} lacks {entry.global_name}")
        return location

    def _read(self, key: str, box: Box) -> Tensor:
        """Read a box of a tensor from the chunks that overlap it."""
        with reraised_as(WeightsError):
            return self._checkpoint.read(key, box)

    @cached_property
    def _digests(self) -> dict[str, FileDigest]:
        """The digests of the files by name; empty where the checkpoint has none, or no description yet."""
        file = self.folder / DESCRIPTION_FILE
        try:
            with reraised_as(WeightsError):
                return digests_from_json(read_json_object(file).get("digests")) if has_file(file) else {}
        except DamageError as error:
            raise WeightsError(f"{file} is damaged: {error}") from error

    @cached_property
    def _checkpoint(self) -> DistCheckpoint:
        return DistCheckpoint(self.folder, self._digests)

    @property
    def _tensors(self) -> Mapping[str, StoredTensor]:
        """The tensors that the metadata lists, by key."""
        with reraised_as(WeightsError):
            return self._checkpoint.tensors
