"""Weights with adapters merged into them, as a source of weights like any other."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.base import WeightSource
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.layouts import Cut
from mindspeed_dpo.weights.lora.source import AdapterSource, SavedAdapter, base_mark
from mindspeed_dpo.weights.rules import Entry


class MergedSource(WeightSource):
    """W + scale B A, computed in float32 as each slice is read."""

    def __init__(self, base: WeightSource, adapter: AdapterSource, path: Path | None = None) -> None:
        """Lay adapters over weights.

        Args:
            base: The weights beneath.
            adapter: What changes them.
            path: What the result is to be called by, where that is not the base.

        Raises:
            WeightsError: The base is a reward model, or not the weights that the adapters were trained on.
        """
        self.base, self.adapter = base, adapter
        self.path, self.folder = path or base.path, base.folder
        if base.is_reward_model:
            raise WeightsError(f"{base.path} is a reward model; adapters of a language model cannot be merged into it")
        if isinstance(adapter, SavedAdapter) and adapter.base_mark != base_mark(base):
            raise WeightsError(
                f"{base.path} does not hold the weights that the adapters of {adapter.path} were trained on, those of "
                f"{adapter.base}"
            )

    @property
    def is_reward_model(self) -> bool:
        """Never."""
        return False

    def model_config(self) -> ModelConfig:
        """Of the weights beneath."""
        return self.base.model_config()

    def weight_files(self) -> Sequence[Path]:
        """Those of both."""
        return [*self.base.weight_files(), *self.adapter.files()]

    def fingerprint(self) -> str:
        """Of both."""
        digest = hashlib.sha256(self.base.fingerprint().encode())
        for file in self.adapter.files():
            digest.update(file.read_bytes())
        return digest.hexdigest()

    def unfit_names(self, model: ModelConfig) -> tuple[list[str], list[str]]:
        """Of the weights beneath."""
        return self.base.unfit_names(model)

    def has(self, entry: Entry) -> bool:
        """As the weights beneath."""
        return self.base.has(entry)

    def check(self, model: ModelConfig) -> None:
        """Of both."""
        super().check(model)
        self.adapter.check(model)

    def check_shapes(self, entry: Entry, model: ModelConfig) -> None:
        """Of the weights beneath."""
        self.base.check_shapes(entry, model)

    def check_copies(self, model: ModelConfig) -> None:
        """Of the weights beneath."""
        self.base.check_copies(model)

    def assets(self) -> Path | None:
        """Those beside the weights beneath."""
        return self.base.assets()

    def pieces(self, entry: Entry, model: ModelConfig, cut: Cut) -> tuple[Tensor, ...]:
        """Slices of the weights beneath, each with its adapter's slice added."""
        found = self.base.pieces(entry, model, cut)
        names = [name.removesuffix(".weight") for name in entry.hf_names] or [""] * len(found)
        return tuple(self._merged(piece, path, entry, model, cut) for piece, path in zip(found, names, strict=True))

    def _merged(self, piece: Tensor, path: str, entry: Entry, model: ModelConfig, cut: Cut) -> Tensor:
        a = self.adapter.tensors.get(f"{path}.lora_A.weight")
        if a is None:
            return piece
        b, kind = self.adapter.tensors[f"{path}.lora_B.weight"], entry.rule.kind
        if kind.dim == 0:
            b = b[slice(*kind.hf_range(len(b), model, cut))]
        else:
            a = a[:, slice(*kind.hf_range(a.shape[1], model, cut))]
        return (piece.float() + self.adapter.settings.scale * (b.float() @ a.float())).to(piece.dtype)
