"""What is carried, in which order and in what portions: a pure function of the described tensors and a bound."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.layouts import Shape
from mindspeed_dpo.weights.resharding.shards import Described


@dataclass(frozen=True)
class Piece:
    """Rows `start` to `stop` of a whole tensor, at `offset` (in elements) of a bucket."""

    name: str
    start: int
    stop: int
    row_shape: Shape
    offset: int

    @property
    def shape(self) -> Shape:
        """Shape of the rows."""
        return (self.stop - self.start, *self.row_shape)

    @property
    def numel(self) -> int:
        """Elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Bucket:
    """Pieces that travel together, all of one data type.

    Attributes:
        source: Rank in the link that has them.
        dtype: Data type of all.
        pieces: One after the other, without gaps.
    """

    source: int
    dtype: torch.dtype
    pieces: tuple[Piece, ...]

    @property
    def numel(self) -> int:
        """Elements."""
        return self.pieces[-1].offset + self.pieces[-1].numel

    @property
    def num_bytes(self) -> int:
        """Bytes."""
        return self.numel * self.dtype.itemsize


def buckets(tensors: Sequence[Described], source: int, limit_bytes: int) -> Iterator[Bucket]:
    """Cut the tensors of a source into buckets of at most `limit_bytes`, in order, each as full as rows allow.

    Raises:
        WeightsError: One row alone is larger than a bucket.
    """
    _check_rows(tensors, limit_bytes)
    held: list[Piece] = []
    dtype = None
    for tensor in tensors:
        this_dtype = getattr(torch, tensor.dtype)
        if held and this_dtype != dtype:
            yield Bucket(source, dtype or this_dtype, tuple(held))
            held = []
        dtype, row_shape = this_dtype, tensor.shape[1:]
        row, capacity = math.prod(row_shape), limit_bytes // dtype.itemsize
        start = 0
        while start < tensor.shape[0]:
            offset = held[-1].offset + held[-1].numel if held else 0
            rows = min((capacity - offset) // row, tensor.shape[0] - start)
            if rows:
                held.append(Piece(tensor.name, start, start + rows, row_shape, offset))
                start += rows
            else:
                yield Bucket(source, dtype, tuple(held))
                held = []
    if held and dtype is not None:
        yield Bucket(source, dtype, tuple(held))


def _check_rows(tensors: Sequence[Described], limit_bytes: int) -> None:
    row_bytes, widest = max(((_row_bytes(tensor), tensor) for tensor in tensors), key=lambda found: found[0])
    if row_bytes > limit_bytes:
        raise WeightsError(
            f"publish_bucket_bytes={limit_bytes} holds no row of {widest.name}, which is {widest}; "
            f"set it to {row_bytes} at least"
        )


def _row_bytes(tensor: Described) -> int:
    dtype: torch.dtype = getattr(torch, tensor.dtype)
    return math.prod(tensor.shape[1:]) * dtype.itemsize
