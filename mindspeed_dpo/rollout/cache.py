"""Keys and values of what was already read, in blocks of fixed size, for tiles of consecutive slots.

A tile is what one decoding pass reads: blocks come first, so the blocks in use of all its rows are one contiguous
piece.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mindspeed_dpo.config.work import CACHE_BLOCK

# Positions of a block, the unit of the cache's capacity: half a block of each response is read in vain.
BLOCK = CACHE_BLOCK


def capacity_of(tokens: int) -> int:
    """Positions that a slot for this many tokens takes: whole blocks."""
    return -(-tokens // BLOCK) * BLOCK


@dataclass(frozen=True)
class Prefix:
    """Keys and values of one prompt, which each of its answers begins with.

    Attributes:
        keys: [layers, blocks, groups, BLOCK, d]; zeros after the prompt's end.
        values: As keys.
        length: Tokens of the prompt.
    """

    keys: Tensor
    values: Tensor
    length: int


def as_blocks(states: Tensor) -> Tensor:
    """Keys or values [T, groups, d] as [blocks, groups, BLOCK, d], zeros behind."""
    missing = capacity_of(len(states)) - len(states)
    padded = torch.nn.functional.pad(states, (0, 0, 0, 0, 0, missing))
    return padded.unflatten(0, (-1, BLOCK)).transpose(1, 2)


class CacheTile:
    """The cache of some consecutive slots.

    Attributes:
        keys: [layers, blocks, rows, groups, BLOCK, d].
        values: As keys. All finite from the start, because what is hidden is multiplied by zero.
    """

    def __init__(self, layers: int, blocks: int, rows: int, groups: int, width: int, like: Tensor) -> None:
        shape = (layers, blocks, rows, groups, BLOCK, width)
        self.keys = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.values = torch.zeros_like(self.keys)

    @property
    def rows(self) -> int:
        """Slots of the tile."""
        return self.keys.shape[2]

    def places(self, positions: Tensor) -> Tensor:
        """Where `append` writes: [rows * groups] indices for one position [rows] of each row."""
        rows, groups = self.keys.shape[2:4]
        row = torch.arange(rows, device=positions.device)
        group = torch.arange(groups, device=positions.device)
        heads = ((positions // BLOCK * rows + row) * groups)[:, None] + group
        return (heads * BLOCK + (positions % BLOCK)[:, None]).flatten()

    def append(self, layer: int, places: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write one key and value [rows, groups, d] of each row."""
        width = keys.shape[-1]
        self.keys[layer].view(-1, width).index_copy_(0, places, keys.reshape(-1, width))
        self.values[layer].view(-1, width).index_copy_(0, places, values.reshape(-1, width))


class KvCache:
    """All slots of one replica, tile by tile.

    Attributes:
        tiles: Tiles of `rows` slots each; the last may have fewer.
    """

    def __init__(
        self, layers: int, slots: int, capacity: int, rows: int, groups: int, width: int, like: Tensor
    ) -> None:
        """Allocate.

        Args:
            layers: Layers of the model.
            slots: Responses at once.
            capacity: Positions of a slot, whole blocks.
            rows: Slots of a tile.
            groups: Query groups on this rank.
            width: Of a head.
            like: A weight, for dtype and device.
        """
        self._rows = rows
        self.tiles = [
            CacheTile(layers, capacity // BLOCK, min(rows, slots - start), groups, width, like)
            for start in range(0, slots, rows)
        ]

    def write(self, slot: int, prefix: Prefix) -> None:
        """Begin a response: copy its prompt's keys and values."""
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
