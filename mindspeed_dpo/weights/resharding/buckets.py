"""The buckets of a transfer: rows of tensors in order, grouped by size; a pure function of tensor specs and a bound."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.model_sizes import Shape
from mindspeed_dpo.weights.resharding.shards import TensorSpec


@dataclass(frozen=True)
class RowSlice:
    """Rows `start` to `stop` of an unsharded tensor, at `offset` (in elements) in a bucket.

    `RowSlice("output_layer.weight", 0, 16, (2048,), 4096)` is the first 16 rows, from element 4096 of the bucket.
    """

    name: str
    start: int
    stop: int
    row_shape: Shape
    offset: int

    @property
    def shape(self) -> Shape:
        """Shape of the rows together."""
        return (self.stop - self.start, *self.row_shape)

    @property
    def numel(self) -> int:
        """Number of elements in the rows."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Bucket:
    """Slices of one dtype that are sent together.

    Attributes:
        source: Rank in the link of the process that broadcasts it.
        dtype: Dtype of all slices.
        slices: The slices, stored one after the other without gaps.
    """

    source: int
    dtype: torch.dtype
    slices: tuple[RowSlice, ...]

    @property
    def numel(self) -> int:
        """Number of elements in the bucket."""
        return self.slices[-1].offset + self.slices[-1].numel

    @property
    def num_bytes(self) -> int:
        """Size of the bucket in bytes."""
        return self.numel * self.dtype.itemsize


def buckets(tensors: Sequence[TensorSpec], source: int, max_bytes: int) -> Iterator[Bucket]:
    """Divide the tensors of a sender in order into buckets of at most `max_bytes`, each as full as rows allow.

    Raises:
        WeightsError: A single row is larger than a bucket.
    """
    _check_rows(tensors, max_bytes)
    slices: list[RowSlice] = []
    dtype = None
    for tensor in tensors:
        tensor_dtype = getattr(torch, tensor.dtype)
        if slices and tensor_dtype != dtype:
            yield Bucket(source, dtype or tensor_dtype, tuple(slices))
            slices = []
        dtype, row_shape = tensor_dtype, tensor.shape[1:]
        row_numel, capacity = math.prod(row_shape), max_bytes // dtype.itemsize
        start = 0
        while start < tensor.shape[0]:
            offset = slices[-1].offset + slices[-1].numel if slices else 0
            num_rows = min((capacity - offset) // row_numel, tensor.shape[0] - start)
            if num_rows:
                slices.append(RowSlice(tensor.name, start, start + num_rows, row_shape, offset))
                start += num_rows
            else:
                yield Bucket(source, dtype, tuple(slices))
                slices = []
    if slices and dtype is not None:
        yield Bucket(source, dtype, tuple(slices))


def _check_rows(tensors: Sequence[TensorSpec], max_bytes: int) -> None:
    row_bytes, widest = max(((_row_bytes(tensor), tensor) for tensor in tensors), key=lambda pair: pair[0])
    if row_bytes > max_bytes:
        raise WeightsError(
            f"publish_bucket_bytes={max_bytes} is smaller than a row of {widest.name}, which is {widest}; "
            f"set it to at least {row_bytes}"
        )


def _row_bytes(tensor: TensorSpec) -> int:
    dtype: torch.dtype = getattr(torch, tensor.dtype)
    return math.prod(tensor.shape[1:]) * dtype.itemsize
