"""Writes weights as a Megatron checkpoint of one file per rank.

The tensors of one rank are in memory at a time. The tracker is written last: a folder with a tracker is complete.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.storage.atomic_write import write_text_atomically
from mindspeed_dpo.storage.digesting_file import DigestingFile
from mindspeed_dpo.storage.write_errors import write_errors
from mindspeed_dpo.weights.dtype_cast import TensorCounts, cast_tensor
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.hf_assets import ASSETS_FOLDER, copy_assets
from mindspeed_dpo.weights.layer_placement import ParallelLayout, Placement
from mindspeed_dpo.weights.legacy_args import make_args
from mindspeed_dpo.weights.legacy_source import CHECKPOINT_VERSION, RANK_FILE, rank_folder
from mindspeed_dpo.weights.output_folder import replace_folder, staging_folder
from mindspeed_dpo.weights.weight_source import WeightSource

logger = logging.getLogger(__name__)

ITERATION_FOLDER = "iter_0000001"
TRACKER = "latest_checkpointed_iteration.txt"


def write_legacy(
    source: WeightSource,
    model: ModelConfig,
    layout: ParallelLayout,
    target: Path,
    dtype: torch.dtype | None = None,
    assets: Path | None = None,
) -> TensorCounts:
    """Write the files of all ranks, then the Hugging Face assets, then the tracker.

    Args:
        source: The weights to write.
        model: Their architecture, with the vocabulary padding to apply.
        layout: How the rank files divide the model.
        target: The checkpoint folder; an iteration folder of the same name is replaced.
        dtype: The dtype to cast to, or None to preserve each tensor's own.
        assets: A folder whose config and tokenizer are copied, if any.

    Raises:
        WeightsError: The weights do not fit the model or the layout; nothing is left behind.
    """
    writer = _RankWriter(source, model, layout, dtype, TensorCounts())
    iteration = target / ITERATION_FOLDER
    with staging_folder(iteration) as folder:
        for pp_rank in range(layout.pp):
            for tp_rank in range(layout.tp):
                writer.write(folder / rank_folder(tp_rank, pp_rank, layout.pp) / RANK_FILE, tp_rank, pp_rank)
        (target / TRACKER).unlink(missing_ok=True)
        replace_folder(folder, iteration)
    if assets is not None:
        copy_assets(assets, target / ASSETS_FOLDER)
    write_text_atomically(target / TRACKER, "1\n")
    return writer.counts


@dataclass(frozen=True)
class _RankWriter:
    """Writes one rank at a time and counts the tensors; the fields are the arguments of `write_legacy`."""

    source: WeightSource
    model: ModelConfig
    layout: ParallelLayout
    dtype: torch.dtype | None
    counts: TensorCounts

    def write(self, file: Path, tp_rank: int, pp_rank: int) -> None:
        """Create the rank's folder and file; nothing stays in memory."""
        file.parent.mkdir()
        chunks = [
            self._chunk(self.layout.placement(self.model.num_layers, tp_rank, pp_rank, number))
            for number in range(self.layout.num_chunks(self.model.num_layers))
        ]
        if not any(chunks):
            raise WeightsError(f"pipeline stage {pp_rank} would hold noop layers only; use fewer stages")
        with write_errors(file), DigestingFile(file) as stream:
            try:
                torch.save(self._content(chunks), cast(BinaryIO, stream))
            except RuntimeError as error:
                # torch reports a position in its archive instead of the cause.
                raise stream.error or error from error
        logger.info("wrote %s", file.parent.name)

    def _chunk(self, placement: Placement) -> dict[str, Tensor]:
        """The cast tensors of one chunk, in memory of their own."""
        tensors = self.source.local_tensors(self.model, placement)
        chunk = {name: cast_tensor(tensor, self.dtype, name) for name, tensor in tensors}
        for tensor in chunk.values():
            self.counts.add(tensor)
        return chunk

    def _content(self, chunks: list[dict[str, Tensor]]) -> dict[str, object]:
        """The content of a rank file as Megatron expects it; virtual pipeline stages are numbered."""
        numbered = {f"model{number}": chunk for number, chunk in enumerate(chunks)}
        return {
            "args": make_args(self.model, self.layout, self.counts.most_common_dtype),
            "checkpoint_version": CHECKPOINT_VERSION,
            "iteration": 1,
            **(numbered if len(chunks) > 1 else {"model": chunks[0]}),
        }
