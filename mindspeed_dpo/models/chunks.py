"""A process's part of a model: one stage, or several virtual stages of an interleaved pipeline that look like one.

Virtual stages number their layers from 0, each for itself. As one part they are numbered on, so that whoever handles
parameters by name (weights, checkpoints, adapters) sees a single stage whose layers do not follow each other in the
model; `Layout.of_rank` says which they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from mindspeed_dpo.models.stage import DecoderStage

_LAYERS = "decoder.layers."


class ChunkedStage(nn.Module):
    """The virtual stages of a process as one module; the schedule runs them, so it has no forward pass of its own.

    Attributes:
        chunks: The virtual stages, in the model's order.
        config: megatron-core's, of the first of them: the one that the schedule reads.
        pre_process: Whether the first of them holds the embedding.
        embedding: It, where that is so.
    """

    embedding: nn.Module

    def __init__(self, chunks: tuple[DecoderStage, ...]) -> None:
        """Take modules from the chunks: embedding and head, and all layers as one list."""
        super().__init__()
        # In a tuple they are no submodules: each parameter is to have one name.
        self.chunks = chunks
        self.config, self.pre_process = chunks[0].config, chunks[0].pre_process
        self._adopt(self, chunks[0], besides="decoder")
        self.decoder = nn.Module()
        self.decoder.layers = nn.ModuleList(layer for chunk in chunks for layer in chunk.decoder.layers)
        self._adopt(self.decoder, chunks[-1].decoder, besides="layers")
        self._adopt(self, chunks[-1], besides="decoder")

    @staticmethod
    def _adopt(into: nn.Module, origin: nn.Module, besides: str) -> None:
        for name, module in origin.named_children():
            if name != besides:
                into.add_module(name, module)

    def train(self, mode: bool = True) -> ChunkedStage:
        """As of any module; recomputation asks the chunks themselves."""
        for chunk in self.chunks:
            chunk.train(mode)
        super().train(mode)
        return self

    def sharded_state_dict(self, prefix: str = "") -> dict[str, Any]:
        """The chunks' descriptions for a distributed checkpoint, by the names that parameters have here."""
        described: dict[str, Any] = {}
        first = 0
        for chunk in self.chunks:
            for name, entry in chunk.sharded_state_dict(prefix=prefix).items():
                described[_numbered_on(name, prefix + _LAYERS, first)] = entry
            first += len(chunk.decoder.layers)
        return described


ModelPart = DecoderStage | ChunkedStage


def part_of(chunks: Sequence[DecoderStage]) -> ModelPart:
    """A process's part of a model: its only stage, or its virtual stages together."""
    return chunks[0] if len(chunks) == 1 else ChunkedStage(tuple(chunks))


def _numbered_on(name: str, before: str, first: int) -> str:
    """A name with its layer counted from `first` instead of 0, if it has one."""
    if not name.startswith(before):
        return name
    number, rest = name.removeprefix(before).split(".", 1)
    return f"{before}{first + int(number)}.{rest}"
