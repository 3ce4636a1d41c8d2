"""Keys and values of what was already read, in blocks of fixed size, for tiles of consecutive slots.

A tile is what one decoding pass reads: blocks come first, so the blocks in use of all its rows are one contiguous
piece.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mindspeed_dpo.config.estimates.workload import CACHE_BLOCK

# Positions of a block, the unit of the cache's capacity: half a block of each response is read in vain.
BLOCK = CACHE_BLOCK


def capacity_of(tokens: int) -> int:
    """Positions that a slot for this many tokens takes: whole blocks."""
    return -(-tokens // BLOCK) * BLOCK


@dataclass(frozen=True)
class Prefix:
    """Keys and values of one prompt, which each of its answers begins with.

    Attributes:
        keys: [layers, blocks, groups, d, BLOCK]; zeros after the prompt's end.
        values: [layers, blocks, groups, BLOCK, d]; zeros too.
        length: Tokens of the prompt.
    """

    keys: Tensor
    values: Tensor
    length: int


def as_blocks(states: Tensor) -> Tensor:
    """Values [T, groups, d] as [blocks, groups, BLOCK, d], zeros behind; of keys the transpose of the last two."""
    missing = capacity_of(len(states)) - len(states)
    padded = torch.nn.functional.pad(states, (0, 0, 0, 0, 0, missing))
    return padded.unflatten(0, (-1, BLOCK)).transpose(1, 2)


@dataclass(frozen=True)
class Places:
    """Where one position of each row lies within a layer.

    Attributes:
        keys: [rows * groups * d] places of numbers.
        values: [rows * groups] places of vectors.
    """

    keys: Tensor
    values: Tensor


class CacheTile:
    """The cache of some consecutive slots.

    Attributes:
        keys: [layers, blocks, rows, groups, d, BLOCK].
        values: [layers, blocks, rows, groups, BLOCK, d]. All finite from the start: what is hidden is multiplied by 0.
    """

    # All finite from the start, because what is hidden is multiplied by zero.
    def __init__(self, layers: int, blocks: int, rows: int, groups: int, width: int, like: Tensor) -> None:
        shape = (layers, blocks, rows, groups)
        self.keys = torch.zeros(*shape, width, BLOCK, dtype=like.dtype, device=like.device)
        self.values = torch.zeros(*shape, BLOCK, width, dtype=like.dtype, device=like.device)

    @property
    def rows(self) -> int:
        """Slots of the tile."""
        return self.keys.shape[2]

    def places(self, positions: Tensor) -> Places:
        """Where `append` writes at one position [rows] of each row."""
        rows, groups, width = self.keys.shape[2:5]
        device = positions.device
        row, group = torch.arange(rows, device=device), torch.arange(groups, device=device)
        piece = (((positions // BLOCK * rows + row) * groups)[:, None] + group).flatten()
        at = (positions % BLOCK).repeat_interleave(groups)
        column = piece[:, None] * width + torch.arange(width, device=device)
        return Places((column * BLOCK + at[:, None]).flatten(), piece * BLOCK + at)

    def append(self, layer: int, places: Places, keys: Tensor, values: Tensor) -> None:
        """Write one key and value [rows, groups, d] of each row."""
        width = values.shape[-1]
        self.keys[layer].view(-1).index_copy_(0, places.keys, keys.reshape(-1))
        self.values[layer].view(-1, width).index_copy_(0, places.values, values.reshape(-1, width))


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
