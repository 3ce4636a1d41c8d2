"""The layouts by which a Megatron tensor is made of Hugging Face tensors, and back: `to_mcore` beside `to_hf`.

Every layout has one property: a tensor-parallel shard is made of equal slices of the Hugging Face tensors by the same
steps as the unsharded tensor. A rank therefore reads only its own slices, and neither direction depends on the rank.
Which tensor has which layout is declared by the tables in `families`.

Letters: h hidden_size, f ffn_hidden_size, d kv_channels, n query heads, g query groups (each has one key and one value
head), r = n / g, V vocabulary, V' padded vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.layer_placement import UNSHARDED, TPRank
from mindspeed_dpo.weights.model_sizes import Shape, Size, evaluate, key_size, query_size


class TensorLayout:
    """The relation of one Megatron tensor to its Hugging Face tensors.

    The shape of a slice follows from `hf_shapes`, that of a shard from `mcore_shape`; dtypes do not change.

    Attributes:
        partition_dim: The dim along which tensor-parallel ranks split both sides; None where each holds a copy.
        num_blocks: Row blocks of the unsharded Megatron tensor that are split separately.
        is_padded: Whether the Megatron tensor may have more rows than the Hugging Face tensor.
    """

    partition_dim: ClassVar[int | None] = None
    num_blocks: ClassVar[int] = 1
    is_padded: ClassVar[bool] = False

    def hf_shapes(self, model: ModelConfig) -> tuple[Shape, ...]:
        """Shapes of the unsharded Hugging Face tensors."""
        raise NotImplementedError

    def to_mcore(self, slices: tuple[Tensor, ...], model: ModelConfig, tp: TPRank = UNSHARDED) -> Tensor:
        """Build the Megatron weights of a rank from its slices of the Hugging Face tensors."""
        return slices[0]

    def to_hf(self, tensor: Tensor, model: ModelConfig) -> tuple[Tensor, ...]:
        """Split the Megatron weights of a rank into the slices of the Hugging Face tensors they hold."""
        return (tensor,)

    def hf_range(self, size: int, model: ModelConfig, tp: TPRank) -> tuple[int, int]:
        """Start and stop of a rank's slice along `partition_dim` of a Hugging Face tensor with `size` rows there."""
        return tp.rank * size // tp.size, (tp.rank + 1) * size // tp.size

    def mcore_ranges(self, model: ModelConfig, tp: TPRank) -> list[tuple[int, int]]:
        """Start and stop of each block of a rank's shard along `partition_dim` of the unsharded Megatron tensor."""
        if self.partition_dim is None:
            return [(0, self.mcore_shape(model, 1)[0])]
        block = self.mcore_shape(model, 1)[self.partition_dim] // self.num_blocks
        share = block // tp.size
        starts = [number * block + tp.rank * share for number in range(self.num_blocks)]
        return [(start, start + share) for start in starts]

    def mcore_shape(self, model: ModelConfig, tp_size: int) -> Shape:
        """Shape of the Megatron tensor on each of `tp_size` ranks."""
        first, *others = self.hf_shapes(model)
        shape = [first[0] + sum(other[0] for other in others), *first[1:]]
        if self.partition_dim is not None:
            shape[self.partition_dim] //= tp_size
        return tuple(shape)

    def check_tp_size(self, model: ModelConfig, tp_size: int) -> None:
        """Check that `tp_size` ranks can split the tensor evenly.

        Raises:
            WeightsError: The size is not divisible.
        """
        for shape in self.hf_shapes(model):
            if self.partition_dim is not None and shape[self.partition_dim] % tp_size:
                raise WeightsError(f"tensor-parallel size {tp_size} does not divide a weight of {list(shape)}")


@dataclass(frozen=True)
class Replicated(TensorLayout):
    """A vector [length] that every tensor-parallel rank holds, such as the weight of a norm."""

    length: Size

    def hf_shapes(self, model: ModelConfig) -> tuple[Shape, ...]:
        """The shape [length]."""
        return ((evaluate(self.length, model),),)


@dataclass(frozen=True)
class Matrix(TensorLayout):
    """A matrix [rows, columns] that every tensor-parallel rank holds, such as a router."""

    rows: Size
    columns: Size

    def hf_shapes(self, model: ModelConfig) -> tuple[Shape, ...]:
        """The shape [rows, columns]."""
        return ((evaluate(self.rows, model), evaluate(self.columns, model)),)


@dataclass(frozen=True)
class RowParallel(TensorLayout):
    """A matrix [rows, columns] that is split along its columns, its input, as Megatron's RowParallelLinear is."""

    partition_dim: ClassVar[int | None] = 1
    rows: Size
    columns: Size

    def hf_shapes(self, model: ModelConfig) -> tuple[Shape, ...]:
        """The shape [rows, columns]."""
        return ((evaluate(self.rows, model), evaluate(self.columns, model)),)


@dataclass(frozen=True)
class GateUp(TensorLayout):
    """The gate matrix above the up matrix, [2 width, h].

    A rank holds its gate rows above its up rows; these two blocks are not contiguous in the unsharded tensor.
    """

    partition_dim: ClassVar[int | None] = 0
    num_blocks: ClassVar[int] = 2
    width: Size

    def hf_shapes(self, model: ModelConfig) -> tuple[Shape, ...]:
        """The shapes of gate [width, h] and up [width, h]."""
        return ((evaluate(self.width, model), model.hidden_size),) * 2

    def to_mcore(self, slices: tuple[Tensor, ...], model: ModelConfig, tp: TPRank = UNSHARDED) -> Tensor:
        """Stack the weights of gate and up [width / tp, h] to [2 width / tp, h], any dtype."""
        return torch.cat(slices)

    def to_hf(self, tensor: Tensor, model: ModelConfig) -> tuple[Tensor, ...]:
        """Split weights [2 width / tp, h] into gate and up, [width / tp, h] each, any dtype."""
        return tensor.chunk(2)


@dataclass(frozen=True)
class Qkv(TensorLayout):
    """Query, key and value rows interleaved by query group: r query heads, one key head, one value head, d rows each.

    The weight is [g (r + 2) d, h]; a bias is [g (r + 2) d].
    """

    partition_dim: ClassVar[int | None] = 0
    bias: bool = False

    def hf_shapes(self, model: ModelConfig) -> tuple[Shape, ...]:
        """The shapes of query [n d, h], key [g d, h] and value [g d, h]; a bias has no second dim."""
        columns = () if self.bias else (model.hidden_size,)
        return tuple((rows, *columns) for rows in (query_size(model), key_size(model), key_size(model)))

    def to_mcore(self, slices: tuple[Tensor, ...], model: ModelConfig, tp: TPRank = UNSHARDED) -> Tensor:
        """Interleave the weights of query [n d / tp, h], key and value [g d / tp, h] by query group, any dtype."""
        groups = slices[1].shape[0] // model.kv_channels
        blocks = [rows.unflatten(0, (groups, -1)) for rows in slices]
        return torch.cat(blocks, dim=1).flatten(0, 1)

    def to_hf(self, tensor: Tensor, model: ModelConfig) -> tuple[Tensor, ...]:
        """Split interleaved weights [g (r + 2) d / tp, h] into query, key and value, any dtype."""
        d = model.kv_channels
        ratio = model.num_attention_heads // model.num_query_groups
        blocks = tensor.unflatten(0, (-1, (ratio + 2) * d)).split((ratio * d, d, d), dim=1)
        return tuple(block.flatten(0, 1) for block in blocks)

    def check_tp_size(self, model: ModelConfig, tp_size: int) -> None:
        """Check that each rank gets complete query groups.

        Raises:
            WeightsError: The number of query groups is not divisible.
        """
        if model.num_query_groups % tp_size:
            raise WeightsError(
                f"tensor-parallel size {tp_size} does not divide num_query_groups={model.num_query_groups}; choose a "
                "divisor"
            )


class VocabParallel(TensorLayout):
    """Vocabulary rows [V, h], padded with zeros to V' rows, which the tensor-parallel ranks split evenly."""

    partition_dim = 0
    is_padded = True

    def hf_shapes(self, model: ModelConfig) -> tuple[Shape, ...]:
        """The shape [V, h] without padding."""
        return ((model.vocab_size, model.hidden_size),)

    def to_mcore(self, slices: tuple[Tensor, ...], model: ModelConfig, tp: TPRank = UNSHARDED) -> Tensor:
        """Pad a rank's weights, at most [V' / tp, h], with zero rows to [V' / tp, h], any dtype."""
        missing = model.padded_vocab(tp.size) // tp.size - slices[0].shape[0]
        return torch.nn.functional.pad(slices[0], (0, 0, 0, missing)) if missing else slices[0]

    def hf_range(self, size: int, model: ModelConfig, tp: TPRank) -> tuple[int, int]:
        """Start and stop of the unpadded rows in the rank's share; an empty range if the share is all padding."""
        share = model.padded_vocab(tp.size) // tp.size
        return min(tp.rank * share, size), min((tp.rank + 1) * share, size)

    def mcore_ranges(self, model: ModelConfig, tp: TPRank) -> list[tuple[int, int]]:
        """The unpadded rows only, so the padding of a stored tensor does not matter."""
        return [self.hf_range(model.vocab_size, model, tp)]

    def mcore_shape(self, model: ModelConfig, tp_size: int) -> Shape:
        """The shape [V' / tp_size, h]."""
        return (model.padded_vocab(tp_size) // tp_size, model.hidden_size)

    def check_tp_size(self, model: ModelConfig, tp_size: int) -> None:
        """Check that an explicit padded vocabulary holds the true one and is divisible.

        Raises:
            WeightsError: It is too small or not divisible.
        """
        padded = model.padded_vocab(tp_size)
        if padded < model.vocab_size or padded % tp_size:
            raise WeightsError(
                f"padded_vocab_size={padded} must be at least vocab_size={model.vocab_size} and a multiple of the "
                f"tensor-parallel size {tp_size}"
            )
