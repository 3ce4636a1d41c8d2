"""The pipeline stage of a process: one model chunk, or the virtual stages of an interleaved schedule joined into one.

Each virtual stage numbers its layers from 0. Joined, they are numbered consecutively, so that code that handles
parameters by name (weights, checkpoints, adapters) sees a single stage whose layers are not contiguous in the model;
`ParallelLayout.rank_placement` gives their global indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from mindspeed_dpo.models.decoder_stage import DecoderStage

_LAYERS = "decoder.layers."


class ChunkedStage(nn.Module):
    """The virtual stages of a process as one module; it has no forward pass, because the schedule runs the chunks.

    Attributes:
        chunks: The virtual stages, in the model's order.
        config: megatron-core's config of the first chunk, which is the one that the schedule reads.
        pre_process: Whether the first chunk holds the embedding.
        embedding: The embedding; absent unless `pre_process`.
    """

    embedding: nn.Module

    def __init__(self, chunks: tuple[DecoderStage, ...]) -> None:
        """Register the modules of the chunks: embedding and head, and all layers as one list."""
        super().__init__()
        # A tuple does not register submodules, so each parameter has a single name.
        self.chunks = chunks
        self.config, self.pre_process = chunks[0].config, chunks[0].pre_process
        self._register(self, chunks[0], exclude="decoder")
        self.decoder = nn.Module()
        self.decoder.layers = nn.ModuleList(layer for chunk in chunks for layer in chunk.decoder.layers)
        self._register(self.decoder, chunks[-1].decoder, exclude="layers")
        self._register(self, chunks[-1], exclude="decoder")

    @staticmethod
    def _register(into: nn.Module, origin: nn.Module, exclude: str) -> None:
        for name, module in origin.named_children():
            if name != exclude:
                into.add_module(name, module)

    def train(self, mode: bool = True) -> ChunkedStage:
        """Set training mode on the chunks as well, because recomputation reads theirs."""
        for chunk in self.chunks:
            chunk.train(mode)
        super().train(mode)
        return self

    def sharded_state_dict(self, prefix: str = "") -> dict[str, Any]:
        """The sharded tensors of all chunks for a distributed checkpoint, by the names that parameters have here."""
        sharded: dict[str, Any] = {}
        first = 0
        for chunk in self.chunks:
            for name, entry in chunk.sharded_state_dict(prefix=prefix).items():
                sharded[_shift_layer(name, prefix + _LAYERS, first)] = entry
            first += len(chunk.decoder.layers)
        return sharded


PipelineStage = DecoderStage | ChunkedStage


def join_virtual_stages(chunks: Sequence[DecoderStage]) -> PipelineStage:
    """The pipeline stage of a process: its only chunk, or its virtual stages joined."""
    return chunks[0] if len(chunks) == 1 else ChunkedStage(tuple(chunks))


def _shift_layer(name: str, prefix: str, first: int) -> str:
    """A name with its layer counted from `first` instead of 0, if it belongs to a layer."""
    if not name.startswith(prefix):
        return name
    number, rest = name.removeprefix(prefix).split(".", 1)
    return f"{prefix}{first + int(number)}.{rest}"
