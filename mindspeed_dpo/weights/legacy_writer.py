"""Write weights as a Megatron checkpoint of one file per rank.

One rank's tensors are in memory at a time. The tracker is written last, so that a folder with a tracker is whole.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.assets import FOLDER, copy_assets
from mindspeed_dpo.weights.atomic_write import put_in_place, unfinished_folder, write_text
from mindspeed_dpo.weights.base import WeightSource
from mindspeed_dpo.weights.dtype_cast import Tally, cast
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.legacy_source import CHECKPOINT_VERSION, RANK_FILE, rank_folder
from mindspeed_dpo.weights.namespace import make_namespace
from mindspeed_dpo.weights.placement import Layout, Placement

logger = logging.getLogger(__name__)

ITERATION_FOLDER = "iter_0000001"
TRACKER = "latest_checkpointed_iteration.txt"


def write_legacy(
    source: WeightSource,
    model: ModelConfig,
    layout: Layout,
    target: Path,
    dtype: torch.dtype | None = None,
    assets: Path | None = None,
) -> Tally:
    """Write every rank's file, the Hugging Face assets, and last the tracker.

    Args:
        source: Where the weights come from.
        model: Their architecture, with the padding of the vocabulary to be applied.
        layout: How the files divide the model.
        target: The checkpoint folder; an iteration folder of the same name is replaced.
        dtype: Type to cast to, or None to keep each tensor's own.
        assets: A folder with config and tokenizer to carry along, if any.

    Raises:
        WeightsError: The weights do not fit the model or the layout; nothing is left behind.
    """
    ranks = _RankWriter(source, model, layout, dtype, Tally())
    final = target / ITERATION_FOLDER
    with unfinished_folder(final) as folder:
        for pp_rank in range(layout.pp):
            for tp_rank in range(layout.tp):
                place = folder / rank_folder(tp_rank, pp_rank, layout.pp) / RANK_FILE
                ranks.write(place, tp_rank, pp_rank)
        (target / TRACKER).unlink(missing_ok=True)
        put_in_place(folder, final)
    if assets is not None:
        copy_assets(assets, target / FOLDER)
    write_text(target / TRACKER, "1\n")
    return ranks.tally


@dataclass(frozen=True)
class _RankWriter:
    """Writes one rank at a time and counts what it wrote; the fields are those of `write_legacy`."""

    source: WeightSource
    model: ModelConfig
    layout: Layout
    dtype: torch.dtype | None
    tally: Tally

    def write(self, place: Path, tp_rank: int, pp_rank: int) -> None:
        """Make the rank's folder and file; nothing stays in memory."""
        place.parent.mkdir()
        chunks = [
            self._chunk(self.layout.placement(self.model.num_layers, tp_rank, pp_rank, number))
            for number in range(self.layout.num_chunks(self.model.num_layers))
        ]
        if not any(chunks):
            raise WeightsError(f"pipeline stage {pp_rank} would hold noop layers only; use fewer stages")
        torch.save(self._content(chunks), place)
        logger.info("wrote %s", place.parent.name)

    def _chunk(self, placement: Placement) -> dict[str, Tensor]:
        """The tensors of one chunk, cast and owning their memory."""
        tensors = self.source.local_tensors(self.model, placement)
        chunk = {name: cast(tensor, self.dtype, name) for name, tensor in tensors}
        for tensor in chunk.values():
            self.tally.add(tensor)
        return chunk

    def _content(self, chunks: list[dict[str, Tensor]]) -> dict[str, object]:
        """What Megatron expects in a rank's file; virtual chunks are numbered."""
        numbered = {f"model{number}": chunk for number, chunk in enumerate(chunks)}
        return {
            "args": make_namespace(self.model, self.layout, self.tally.dtype),
            "checkpoint_version": CHECKPOINT_VERSION,
            "iteration": 1,
            **(numbered if len(chunks) > 1 else {"model": chunks[0]}),
        }
