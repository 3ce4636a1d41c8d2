"""Writes weights as a Megatron checkpoint of one file per rank.

One tensor is in memory at a time, of grouped experts one expert. The tracker is written last: a folder with a tracker
is complete.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from mindspeed_dpo.config.estimates.parameter_counts import num_parameters
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.observability.live_status import live_status
from mindspeed_dpo.observability.phase import Phase
from mindspeed_dpo.storage.atomic_write import write_text_atomically
from mindspeed_dpo.storage.write_errors import write_errors
from mindspeed_dpo.weights.dtype_cast import TensorCounts, cast_tensor
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.hf.hf_assets import ASSETS_FOLDER, copy_assets
from mindspeed_dpo.weights.layer_placement import ParallelLayout, Placement
from mindspeed_dpo.weights.legacy.expert_storage import DEFAULT_STORAGE, ExpertStorage
from mindspeed_dpo.weights.legacy.legacy_args import make_args
from mindspeed_dpo.weights.legacy.rank_files import CHECKPOINT_VERSION
from mindspeed_dpo.weights.legacy.rank_folders import RANK_FILE, rank_folder
from mindspeed_dpo.weights.legacy.torch_archive_writer import TorchArchiveWriter, WrittenTensor
from mindspeed_dpo.weights.name_mapping import TensorEntry, local_entries, model_entries
from mindspeed_dpo.weights.output_folder import replace_folder, staging_folder
from mindspeed_dpo.weights.weight_source import WeightSource

logger = logging.getLogger(__name__)

ITERATION_FOLDER = "iter_0000001"
TRACKER = "latest_checkpointed_iteration.txt"
Rank = tuple[int, int, int]
"""Tensor-parallel rank, pipeline stage and expert-parallel rank."""
Chunk = dict[str, WrittenTensor]


@dataclass(frozen=True)
class RankLayout:
    """The division of a model between rank files, for example `RankLayout(ParallelLayout(tp=8, ep=4))`.

    Attributes:
        layout: The division of layers and of tensors other than experts.
        storage: How the files hold experts.
    """

    layout: ParallelLayout = field(default_factory=ParallelLayout)
    storage: ExpertStorage = DEFAULT_STORAGE


def write_legacy(
    source: WeightSource,
    model: ModelConfig,
    ranks: RankLayout,
    target: Path,
    dtype: torch.dtype | None = None,
    assets: Path | None = None,
) -> TensorCounts:
    """Write the files of all ranks, then the Hugging Face assets, then the tracker.

    Args:
        source: The weights to write.
        model: Their architecture, with the vocabulary padding to apply.
        ranks: How the rank files divide the model.
        target: The checkpoint folder; an iteration folder of the same name is replaced.
        dtype: The dtype to cast to, or None to preserve each tensor's own.
        assets: A folder whose config and tokenizer are copied, if any.

    Raises:
        WeightsError: The weights do not fit the model or the layout; nothing is left behind.
    """
    writer = _RankWriter(source, model, ranks.layout, ranks.storage, dtype)
    writer.check()
    iteration, num_elements = target / ITERATION_FOLDER, num_parameters(model, scalar_head=source.is_reward_model)
    with staging_folder(iteration) as folder, live_status.phase("writing parameters", num_elements) as writer.phase:
        for pp_rank in range(ranks.layout.pp):
            for tp_rank, ep_rank in ranks.storage.ranks(ranks.layout):
                file = folder / rank_folder(ranks.layout, tp_rank, pp_rank, ep_rank) / RANK_FILE
                writer.write(file, (tp_rank, pp_rank, ep_rank))
        writer.check_experts()
        (target / TRACKER).unlink(missing_ok=True)
        replace_folder(folder, iteration)
    if assets is not None:
        copy_assets(assets, target / ASSETS_FOLDER)
    write_text_atomically(target / TRACKER, "1\n")
    return writer.counts


@dataclass
class _RankWriter:
    """Writes one rank at a time and counts the tensors; the first fields are the arguments of `write_legacy`.

    Attributes:
        counts: The tensors written.
        experts: How often each expert's matrices were written by which rank.
        phase: Counts the elements.
    """

    source: WeightSource
    model: ModelConfig
    layout: ParallelLayout
    storage: ExpertStorage
    dtype: torch.dtype | None
    counts: TensorCounts = field(default_factory=TensorCounts)
    experts: Counter[tuple[TensorEntry, int, int]] = field(default_factory=Counter)
    phase: Phase | None = None

    def check(self) -> None:
        """Check weights and layout before anything is written."""
        for rule in self.storage.rules(self.source.rules(self.model)):
            rule.layout.check_tp_size(self.model, self.layout.tp)
        if self.model.has_experts:
            self.storage.experts_per_rank(self.model.num_experts or 0, self.layout)
        for pp_rank in range(self.layout.pp):
            chunks = self._chunks((0, pp_rank, 0))
            if not any(any(local_entries(self.source.rules(self.model), self.model, chunk)) for chunk in chunks):
                raise WeightsError(f"pipeline stage {pp_rank} would hold noop layers only; use fewer stages")
        self.source.check(self.model)

    def write(self, file: Path, rank: Rank) -> None:
        """Create the rank's folder and file."""
        file.parent.mkdir()
        with write_errors(file), TorchArchiveWriter(file) as archive:
            chunks = [self._write_chunk(archive, chunk, rank) for chunk in self._chunks(rank)]
            archive.finish(self._content(chunks))
        logger.info("wrote %s", file.parent.name)

    def check_experts(self) -> None:
        """Check that every matrix of every expert, or every slice of it, was written once.

        Raises:
            WeightsError: One was not; the message names layer and expert.
        """
        for entry in model_entries(self.storage.rules(self.source.rules(self.model)), self.model):
            if entry.expert is None:
                continue
            for tp_rank, ep_rank, _ in self.storage.holders(entry.expert, self.model.num_experts or 0, self.layout):
                count = self.experts[entry, tp_rank, ep_rank]
                if count != 1:
                    raise WeightsError(
                        f"{entry.global_name} (expert {entry.expert} of layer {entry.layer}) was written {count} times "
                        f"for tensor-parallel rank {tp_rank} and expert-parallel rank {ep_rank}"
                    )

    def _chunks(self, rank: Rank) -> list[Placement]:
        """The part of each chunk that the rank has."""
        tp_rank, pp_rank, ep_rank = rank
        placements = [
            self.layout.placement(self.model.num_layers, tp_rank, pp_rank, number)
            for number in range(self.layout.num_chunks(self.model.num_layers))
        ]
        return [self.storage.placement(placement, self.layout, ep_rank) for placement in placements]

    def _write_chunk(self, archive: TorchArchiveWriter, placement: Placement, rank: Rank) -> Chunk:
        """Write the tensors of a chunk; experts that are stored as one tensor follow each other."""
        rules, chunk = self.storage.rules(self.source.rules(self.model)), Chunk()
        named = (
            (self.storage.stored_name(name), name, entry)
            for name, entry in local_entries(rules, self.model, placement)
            if self.source.is_read(entry)
        )
        for name, group in itertools.groupby(named, key=lambda item: item[0]):
            entries = [(local_name, entry) for _, local_name, entry in group]
            matrix = entries[0][1].layout.mcore_shape(self.model, self.layout.tp)
            shape = matrix
            if entries[0][1].expert is not None:
                shape = self.storage.stored_shape(name, matrix, len(entries))
            written = archive.add(shape, self._parts(entries, placement, rank))
            self.counts.add_bytes(written.num_bytes, written.storage.dtype)
            chunk[name] = written
        return chunk

    def _parts(self, entries: list[tuple[str, TensorEntry]], placement: Placement, rank: Rank) -> Iterator[Tensor]:
        """The cast weights of one stored tensor, expert by expert if it holds several; any shape."""
        for name, entry in entries:
            tensor = self.source.local_tensor(entry, self.model, placement.tp)
            if entry.expert is not None:
                self.experts[entry, rank[0], rank[2]] += 1
                tensor = self.storage.stored_part(tensor)
            if self.phase is not None:
                self.phase.advance(tensor.numel())
            yield cast_tensor(tensor, self.dtype, name)

    def _content(self, chunks: list[Chunk]) -> dict[str, object]:
        """The content of a rank file as Megatron expects it; virtual pipeline stages are numbered."""
        numbered = {f"model{number}": chunk for number, chunk in enumerate(chunks)}
        return {
            "args": make_args(self.model, self.layout, self.counts.most_common_dtype, self.storage),
            "checkpoint_version": CHECKPOINT_VERSION,
            "iteration": 1,
            **(numbered if len(chunks) > 1 else {"model": chunks[0]}),
        }
