"""KV cache in blocks of fixed size, for tiles of consecutive slots.

A tile holds the rows of one decoding pass. Its first axis is the block, so the used blocks of all rows are contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mindspeed_dpo.config.estimates.workload import CACHE_BLOCK

# Positions per block, the unit of capacity; on average half a block per response is read unnecessarily.
BLOCK = CACHE_BLOCK


def capacity_of(tokens: int) -> int:
    """Round a number of tokens up to a multiple of the block size."""
    return -(-tokens // BLOCK) * BLOCK


@dataclass(frozen=True)
class Prefix:
    """Keys and values of one prompt, the prefix of all responses to it.

    Attributes:
        keys: [layers, blocks, groups, d, BLOCK] in the model's dtype, zero past the end of the prompt.
        values: [layers, blocks, groups, BLOCK, d] in the model's dtype, zero past the end of the prompt.
        length: Length of the prompt in tokens.
    """

    keys: Tensor
    values: Tensor
    length: int


def as_blocks(states: Tensor) -> Tensor:
    """Split activations [T, groups, d] of any dtype into blocks [blocks, groups, BLOCK, d], padded with zeros."""
    missing = capacity_of(len(states)) - len(states)
    padded = torch.nn.functional.pad(states, (0, 0, 0, 0, 0, missing))
    return padded.unflatten(0, (-1, BLOCK)).transpose(1, 2)


@dataclass(frozen=True)
class WriteIndices:
    """Flat indices of one position of some rows within a layer of a tile.

    Attributes:
        keys: [n * groups * d] int64 indices of key elements.
        values: [n * groups] int64 indices of value vectors.
    """

    keys: Tensor
    values: Tensor


class CacheTile:
    """The cache of consecutive slots.

    Attributes:
        keys: [layers, blocks, rows, groups, d, BLOCK] in the model's dtype.
        values: [layers, blocks, rows, groups, BLOCK, d] in the model's dtype.
    """

    # Zeros, since masked positions are multiplied by 0 and must be finite.
    def __init__(self, layers: int, blocks: int, rows: int, groups: int, width: int, like: Tensor) -> None:
        shape = (layers, blocks, rows, groups)
        self.keys = torch.zeros(*shape, width, BLOCK, dtype=like.dtype, device=like.device)
        self.values = torch.zeros(*shape, BLOCK, width, dtype=like.dtype, device=like.device)

    @property
    def rows(self) -> int:
        """Number of slots of the tile."""
        return self.keys.shape[2]

    def write_indices(self, positions: Tensor, row: Tensor) -> WriteIndices:
        """Compute the indices at which `append` writes: one position of each of some rows, both [n] int64."""
        rows, groups, width = self.keys.shape[2:5]
        device = positions.device
        group = torch.arange(groups, device=device)
        piece = (((positions // BLOCK * rows + row) * groups)[:, None] + group).flatten()
        offset = (positions % BLOCK).repeat_interleave(groups)
        column = piece[:, None] * width + torch.arange(width, device=device)
        return WriteIndices((column * BLOCK + offset[:, None]).flatten(), piece * BLOCK + offset)

    def append(self, layer: int, indices: WriteIndices, keys: Tensor, values: Tensor) -> None:
        """Write one key and one value of each row, [n, groups, d] in the model's dtype."""
        width = values.shape[-1]
        self.keys[layer].view(-1).index_copy_(0, indices.keys, keys.reshape(-1))
        self.values[layer].view(-1, width).index_copy_(0, indices.values, values.reshape(-1, width))


class KvCache:
    """All slots of one replica, in tiles.

    Attributes:
        tiles: Tiles of `rows` slots each; the last may have fewer.
    """

    def __init__(
        self, layers: int, slots: int, capacity: int, rows: int, groups: int, width: int, like: Tensor
    ) -> None:
        """Allocate the cache.

        Args:
            layers: Number of layers of the model.
            slots: Number of responses that are decoded concurrently.
            capacity: Positions per slot, a multiple of the block size.
            rows: Slots per tile.
            groups: Query groups on this rank.
            width: Head dimension.
            like: A weight of any shape, whose dtype and device the cache uses.
        """
        self._rows = rows
        self.tiles = [
            CacheTile(layers, capacity // BLOCK, min(rows, slots - start), groups, width, like)
            for start in range(0, slots, rows)
        ]

    def write(self, slot: int, prefix: Prefix) -> None:
        """Copy a prompt's keys and values into a slot."""
        tile, row = divmod(slot, self._rows)
        blocks = prefix.keys.shape[1]
        self.tiles[tile].keys[:, :blocks, row] = prefix.keys
        self.tiles[tile].values[:, :blocks, row] = prefix.values

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of a slot to another."""
        blocks = capacity_of(length) // BLOCK
        (tile, row), (to_tile, to_row) = divmod(source, self._rows), divmod(target, self._rows)
        self.tiles[to_tile].keys[:, :blocks, to_row] = self.tiles[tile].keys[:, :blocks, row]
        self.tiles[to_tile].values[:, :blocks, to_row] = self.tiles[tile].values[:, :blocks, row]
