"""A worker's share of the data: dataset rows in, packed micro-batches on its device out.

Every worker is given the rows of all ranks and takes its own part, so no token passes through the driver.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from mindspeed_dpo.batches import PackedBatch, PreferenceBatch
from mindspeed_dpo.data.dataset import PreferenceDataset
from mindspeed_dpo.data.packing import pack
from mindspeed_dpo.parallel.topology import Place, shard
from mindspeed_dpo.workers.roles import Logps, Rows


@dataclass(frozen=True)
class Feed:
    """Reads, packs and moves a worker's micro-batches.

    Attributes:
        dataset: Preference pairs by row.
        place: Where this worker stands.
        device: Where the batches go.
        micro_batch_size: Pairs per micro-batch.
        share_prompt: Compute a prompt once for both responses.
        sequence_parallel: Whether rows are split over tensor ranks, which must divide them.
        vocab_size: Token ids the model knows.
    """

    dataset: PreferenceDataset
    place: Place
    device: torch.device
    micro_batch_size: int
    share_prompt: bool
    sequence_parallel: bool
    vocab_size: int

    def micro_batches(self, rows: Rows, ref_logps: Logps | None = None) -> list[PackedBatch]:
        """This rank's part of the rows [N], at least one micro-batch."""
        return list(self.stream(rows, ref_logps))

    def stream(self, rows: Rows, ref_logps: Logps | None = None) -> Iterator[PackedBatch]:
        """As `micro_batches`, one after the other, for more rows than should be held at once.

        A rank without rows of its own gets one pair of weight 0: every rank must take part in the collectives.
        """
        mine = list(shard(len(rows), self.place.dp_rank, self.place.topology.dp))
        positions = np.asarray(mine or [0])
        references = None if ref_logps is None else torch.as_tensor(ref_logps, dtype=torch.float32)
        return self._packed(np.asarray(rows), positions, references, weight=1.0 if mine else 0.0)

    def _packed(
        self, rows: np.ndarray, positions: np.ndarray, references: torch.Tensor | None, weight: float
    ) -> Iterator[PackedBatch]:
        multiple_of = self.place.topology.tp if self.sequence_parallel else 1
        for start in range(0, len(positions), self.micro_batch_size):
            part = positions[start : start + self.micro_batch_size]
            batch = self.dataset.batch(rows[part])
            self._check_tokens(batch, rows[part])
            if references is not None:
                batch = batch.with_ref_logps(references[part])
            weights = torch.full((len(part),), weight)
            packed = pack(batch, share_prompt=self.share_prompt, multiple_of=multiple_of, weights=weights)
            yield packed.to(self.device)

    def _check_tokens(self, batch: PreferenceBatch, rows: np.ndarray) -> None:
        highest = int(max(batch.prompt_tokens.max(), batch.response_tokens.max()))
        if highest >= self.vocab_size:
            raise ValueError(
                f"dataset rows {rows.tolist()} hold token {highest}, but the model has vocab_size={self.vocab_size}: "
                "the data was made with another tokenizer; preprocess it again with the model's own"
            )
