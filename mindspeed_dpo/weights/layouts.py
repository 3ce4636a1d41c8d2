"""How one Megatron tensor is made of Hugging Face tensors, and back: `to_mcore` beside `to_hf`.

All kinds share one property: a tensor-parallel shard is made of equal slices of the Hugging Face tensors by the same
steps as the whole. So a rank reads only its slices, and the two directions need no notion of a rank.
Which tensor is of which kind is told by the tables in `families`.

Letters: h hidden_size, f ffn_hidden_size, d kv_channels, nh query heads, ng query groups, r = nh / ng, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.errors import WeightsError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Cut:
    """Piece `rank` of `size` equal pieces: a tensor-parallel rank and its group."""

    rank: int = 0
    size: int = 1


WHOLE = Cut()


class Kind:
    """One way of relating a Megatron tensor to Hugging Face tensors.

    Attributes:
        dim: The dim along which both are cut for tensor parallelism, or None where every rank holds a copy.
        parts: Blocks of rows of the whole Megatron tensor that are cut one by one.
        padded: Megatron's tensor may have more rows than Hugging Face's.
    """

    dim: ClassVar[int | None] = None
    parts: ClassVar[int] = 1
    padded: ClassVar[bool] = False

    def hf_shapes(self, model: ModelConfig) -> tuple[Shape, ...]:
        """Shapes of the whole Hugging Face tensors."""
        raise NotImplementedError

    def to_mcore(self, pieces: tuple[Tensor, ...], model: ModelConfig, cut: Cut = WHOLE) -> Tensor:
        """The Megatron tensor of a rank, from its slices of the Hugging Face tensors."""
        return pieces[0]

    def to_hf(self, tensor: Tensor, model: ModelConfig) -> tuple[Tensor, ...]:
        """The slices of the Hugging Face tensors that a Megatron tensor holds."""
        return (tensor,)

    def hf_range(self, size: int, model: ModelConfig, cut: Cut) -> tuple[int, int]:
        """First and past-the-last index of a piece along `dim`, for a Hugging Face tensor of this size."""
        return cut.rank * size // cut.size, (cut.rank + 1) * size // cut.size

    def mcore_ranges(self, model: ModelConfig, cut: Cut) -> list[tuple[int, int]]:
        """Where along `dim` of the whole Megatron tensor a rank's tensor lies, block by block."""
        if self.dim is None:
            return [(0, self.mcore_shape(model, 1)[0])]
        block = self.mcore_shape(model, 1)[self.dim] // self.parts
        share = block // cut.size
        starts = [part * block + cut.rank * share for part in range(self.parts)]
        return [(start, start + share) for start in starts]

    def mcore_shape(self, model: ModelConfig, tp: int) -> Shape:
        """Shape of the Megatron tensor on each of `tp` ranks."""
        first, *others = self.hf_shapes(model)
        shape = [first[0] + sum(other[0] for other in others), *first[1:]]
        if self.dim is not None:
            shape[self.dim] //= tp
        return tuple(shape)

    def check_tp(self, model: ModelConfig, tp: int) -> None:
        """Stop if `tp` ranks cannot share the tensor evenly.

        Raises:
            WeightsError: The size does not divide.
        """
        for shape in self.hf_shapes(model):
            if self.dim is not None and shape[self.dim] % tp:
                raise WeightsError(f"tensor-parallel size {tp} does not divide a weight of {list(shape)}")


@dataclass(frozen=True)
class Copy(Kind):
    """A vector that every rank holds: a norm. `size` names its length in the model description."""

    size: str

    def hf_shapes(self, model: ModelConfig) -> tuple[Shape, ...]:
        """[length]."""
        return ((getattr(model, self.size),),)


class Columns(Kind):
    """A projection back to the residual stream, cut along its input."""

    dim = 1


class AttentionOutput(Columns):
    """[h, nh * d]."""

    def hf_shapes(self, model: ModelConfig) -> tuple[Shape, ...]:
        """[h, nh * d]."""
        return ((model.hidden_size, model.num_attention_heads * model.kv_channels),)


class Down(Columns):
    """[h, f]."""

    def hf_shapes(self, model: ModelConfig) -> tuple[Shape, ...]:
        """[h, f]."""
        return ((model.hidden_size, model.ffn_hidden_size),)


class ScoreHead(Columns):
    """The reward model's head, [1, h]: one score for each position."""

    def hf_shapes(self, model: ModelConfig) -> tuple[Shape, ...]:
        """[1, h]."""
        return ((1, model.hidden_size),)


class ScoreBias(Kind):
    """A number added to every score, [1]; Hugging Face's classifiers have none."""

    def hf_shapes(self, model: ModelConfig) -> tuple[Shape, ...]:
        """[1], as if there were one."""
        return ((1,),)


class GateUp(Kind):
    """Gate above up, [2f, h]. A rank holds its gate rows above its up rows, which is no slice of the whole."""

    dim = 0
    parts = 2

    def hf_shapes(self, model: ModelConfig) -> tuple[Shape, ...]:
        """Gate [f, h] and up [f, h]."""
        return ((model.ffn_hidden_size, model.hidden_size),) * 2

    def to_mcore(self, pieces: tuple[Tensor, ...], model: ModelConfig, cut: Cut = WHOLE) -> Tensor:
        """Gate above up."""
        return torch.cat(pieces)

    def to_hf(self, tensor: Tensor, model: ModelConfig) -> tuple[Tensor, ...]:
        """The upper half is gate, the lower up."""
        return tensor.chunk(2)


@dataclass(frozen=True)
class Qkv(Kind):
    """Rows of query, key and value, one block of (r + 2) d rows for each query group: r query heads, key, value."""

    dim: ClassVar[int | None] = 0
    bias: bool = False

    def hf_shapes(self, model: ModelConfig) -> tuple[Shape, ...]:
        """Query [nh * d, h], key and value [ng * d, h]; a bias has no second dim."""
        query = model.num_attention_heads * model.kv_channels
        key = model.num_query_groups * model.kv_channels
        rest = () if self.bias else (model.hidden_size,)
        return (query, *rest), (key, *rest), (key, *rest)

    def to_mcore(self, pieces: tuple[Tensor, ...], model: ModelConfig, cut: Cut = WHOLE) -> Tensor:
        """Interleave by query group."""
        groups = pieces[1].shape[0] // model.kv_channels
        blocks = [piece.unflatten(0, (groups, -1)) for piece in pieces]
        return torch.cat(blocks, dim=1).flatten(0, 1)

    def to_hf(self, tensor: Tensor, model: ModelConfig) -> tuple[Tensor, ...]:
        """Collect the queries, keys and values of all groups."""
        d = model.kv_channels
        ratio = model.num_attention_heads // model.num_query_groups
        blocks = tensor.unflatten(0, (-1, (ratio + 2) * d)).split((ratio * d, d, d), dim=1)
        return tuple(block.flatten(0, 1) for block in blocks)

    def check_tp(self, model: ModelConfig, tp: int) -> None:
        """Whole query groups go to a rank."""
        if model.num_query_groups % tp:
            raise WeightsError(
                f"tensor-parallel size {tp} does not divide num_query_groups={model.num_query_groups}; choose a divisor"
            )


class Vocabulary(Kind):
    """Rows of the vocabulary [V, h], padded with zeros to the next size that the ranks divide."""

    dim = 0
    padded = True

    def hf_shapes(self, model: ModelConfig) -> tuple[Shape, ...]:
        """[V, h]: only true rows."""
        return ((model.vocab_size, model.hidden_size),)

    def to_mcore(self, pieces: tuple[Tensor, ...], model: ModelConfig, cut: Cut = WHOLE) -> Tensor:
        """Add the rank's share of zero rows; all but the last ranks usually have none."""
        missing = model.padded_vocab(cut.size) // cut.size - pieces[0].shape[0]
        return torch.nn.functional.pad(pieces[0], (0, 0, 0, missing)) if missing else pieces[0]

    def hf_range(self, size: int, model: ModelConfig, cut: Cut) -> tuple[int, int]:
        """The true rows within the rank's share of the padded vocabulary; none for a rank of padding alone."""
        share = model.padded_vocab(cut.size) // cut.size
        return min(cut.rank * share, size), min((cut.rank + 1) * share, size)

    def mcore_ranges(self, model: ModelConfig, cut: Cut) -> list[tuple[int, int]]:
        """The true rows only: how far the whole tensor is padded does not matter."""
        return [self.hf_range(model.vocab_size, model, cut)]

    def mcore_shape(self, model: ModelConfig, tp: int) -> Shape:
        """[V' / tp, h]."""
        return (model.padded_vocab(tp) // tp, model.hidden_size)

    def check_tp(self, model: ModelConfig, tp: int) -> None:
        """A padded vocabulary that was given must hold the true one and divide."""
        padded = model.padded_vocab(tp)
        if padded < model.vocab_size or padded % tp:
            raise WeightsError(
                f"padded_vocab_size={padded} must be at least vocab_size={model.vocab_size} and a multiple of the "
                f"tensor-parallel size {tp}"
            )
