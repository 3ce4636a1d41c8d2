"""A conversion has one tensor in memory, or one shard, however large the files are: what is read and cast counts."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mindspeed_dpo.weights import ParallelLayout, WeightSource, open_weights
from mindspeed_dpo.weights.conversion.conversion_request import ConversionRequest
from mindspeed_dpo.weights.conversion.convert import convert
from mindspeed_dpo.weights.dtype_cast import cast_tensor
from mindspeed_dpo.weights.hf import hf_writer
from mindspeed_dpo.weights.hf.hf_source import HfSource
from mindspeed_dpo.weights.legacy import legacy_writer
from mindspeed_dpo.weights.legacy.expert_storage import ExpertForm, ExpertStorage
from mindspeed_dpo.weights.legacy.legacy_source import LegacySource

HfFolder = Callable[[str], Path]
EMBEDDING_BYTES = 93 * 32 * 4
"""Size of the largest tensor of the tiny models that is not a stack of experts."""


class LiveBytes:
    """Adds up the tensors that readers and writers have made and that are still alive."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.live: dict[int, int] = {}
        self.peak = 0
        for source in (HfSource, LegacySource):
            monkeypatch.setattr(source, "read_slices", self._counting_slices(source.read_slices))
        for module in (legacy_writer, hf_writer):
            monkeypatch.setattr(module, "cast_tensor", self._cast)

    def add(self, tensor: Tensor) -> None:
        key = id(tensor)
        self.live[key] = tensor.nbytes
        weakref.finalize(tensor, self.live.pop, key)
        self.peak = max(self.peak, sum(self.live.values()))

    def _cast(self, tensor: Tensor, dtype: torch.dtype | None, name: str) -> Tensor:
        result = cast_tensor(tensor, dtype, name)
        self.add(result)
        return result

    def _counting_slices(self, read: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
        def counting(source: WeightSource, *arguments: Any) -> tuple[Tensor, ...]:
            slices = read(source, *arguments)
            for tensor in slices:
                self.add(tensor)
            return slices

        return counting


@pytest.mark.parametrize("form", ExpertForm, ids=lambda form: form.name)
def test_experts_are_converted_one_at_a_time(
    hf_folder: HfFolder, form: ExpertForm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bytes_alive = LiveBytes(monkeypatch)
    convert(ConversionRequest(hf_folder("glm4_moe"), tmp_path / "mg", storage=ExpertStorage(form)))
    (file,) = (tmp_path / "mg").rglob("*.pt")
    assert 0 < bytes_alive.peak <= 2 * EMBEDDING_BYTES < file.stat().st_size / 5
    layout = ParallelLayout(2, 1, ep=4)
    convert(ConversionRequest(tmp_path / "mg", tmp_path / "tp2", layout=layout, storage=ExpertStorage(form)))
    assert bytes_alive.peak <= 2 * EMBEDDING_BYTES
    source = open_weights(tmp_path / "tp2")
    tensors, shard = source.hf_tensors(source.model_config()), 20_000
    hf_writer.write_hf(tensors, hf_folder("glm4_moe"), tmp_path / "hf", None, shard)
    assert len(list((tmp_path / "hf").glob("model-*.safetensors"))) > 4
    assert bytes_alive.peak <= shard + 2 * EMBEDDING_BYTES
    assert not bytes_alive.live
