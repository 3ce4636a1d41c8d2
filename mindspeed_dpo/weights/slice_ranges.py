"""Ranges of tensors that ranks need, cut out of the shards that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.layer_placement import TPRank
from mindspeed_dpo.weights.model_sizes import Shape
from mindspeed_dpo.weights.tensor_layouts import TensorLayout


@dataclass(frozen=True)
class SliceRange:
    """Start and stop along a dim, such as `SliceRange(dim=0, start=16, stop=32)`."""

    dim: int
    start: int
    stop: int


def range_of(layout: TensorLayout, shape: Shape, dim: int, model: ModelConfig, tp: TPRank) -> SliceRange:
    """The range of a Hugging Face tensor that a rank needs; all along `dim` of what its layout does not split."""
    if layout.partition_dim is None:
        return SliceRange(dim, 0, shape[dim])
    return SliceRange(layout.partition_dim, *layout.hf_range(shape[layout.partition_dim], model, tp))


def narrow(shards: Sequence[Tensor], bounds: SliceRange, offset: int = 0) -> Tensor:
    """Join weights and cut out a range; their dtype is kept, and their shape except along the range's dim.

    Args:
        shards: Consecutive shards of any shape and dtype.
        bounds: The range of the whole tensor.
        offset: Where the shards start in it.
    """
    joined = shards[0] if len(shards) == 1 else torch.cat(list(shards), bounds.dim)
    return joined.narrow(bounds.dim, bounds.start - offset, bounds.stop - bounds.start)
