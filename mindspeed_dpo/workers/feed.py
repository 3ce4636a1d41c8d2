"""A worker's share of the data: dataset rows in, packed micro-batches on its device out.

Every worker is given the rows of all ranks and takes its own part, so no token passes through the driver.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mindspeed_dpo.batches import PackedBatch, PreferenceBatch
from mindspeed_dpo.data.packing import pack
from mindspeed_dpo.parallel.topology import Place, rows_multiple, shard
from mindspeed_dpo.workers.roles import Logps, Pairs, Rows


class PairSource(Protocol):
    """Where pairs are looked up by number: a dataset, or a batch at hand."""

    def batch(self, rows: NDArray[np.int64]) -> PreferenceBatch:
        """The pairs of the given numbers, in their order."""


@dataclass(frozen=True)
class GivenPairs:
    """Pairs at hand, such as the policy's own answers."""

    pairs: PreferenceBatch

    def batch(self, rows: NDArray[np.int64]) -> PreferenceBatch:
        """The pairs of the given positions."""
        return self.pairs.select(rows.tolist())


@dataclass(frozen=True)
class Feed:
    """Reads, packs and moves a worker's micro-batches.

    Attributes:
        dataset: Preference pairs by row; None where they always come with the call.
        place: Where this worker stands.
        device: Where the batches go.
        micro_batch_size: Pairs per micro-batch.
        share_prompt: Compute a prompt once for both responses.
        sequence_parallel: Whether rows are split over tensor ranks too, which must divide them.
        vocab_size: Token ids the model knows.
    """

    dataset: PairSource | None
    place: Place
    device: torch.device
    micro_batch_size: int
    share_prompt: bool
    sequence_parallel: bool
    vocab_size: int

    def over(self, pairs: Pairs) -> tuple[Feed, NDArray[np.int64]]:
        """A feed and the numbers by which it knows the pairs: those given, or those at hand."""
        if isinstance(pairs, PreferenceBatch):
            return replace(self, dataset=GivenPairs(pairs)), np.arange(pairs.num_prompts)
        return self, np.asarray(pairs, dtype=np.int64)

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
        topology = self.place.topology
        multiple_of = rows_multiple(topology, self.sequence_parallel)
        for start in range(0, len(positions), self.micro_batch_size):
            part = positions[start : start + self.micro_batch_size]
            assert self.dataset is not None, "pairs must come with the call where there is no dataset"
            batch = self.dataset.batch(rows[part])
            self._check_tokens(batch, rows[part])
            if references is not None:
                batch = batch.with_ref_logps(references[part])
            weights = torch.full((len(part),), weight)
            packed = pack(
                batch,
                share_prompt=self.share_prompt,
                multiple_of=multiple_of,
                weights=weights,
                pair_ids=torch.from_numpy(part),
            )
            yield packed.divided(self.place.cp_rank, topology.cp).to(self.device)

    def _check_tokens(self, batch: PreferenceBatch, rows: np.ndarray) -> None:
        highest = int(max(batch.prompt_tokens.max(), batch.response_tokens.max()))
        if highest >= self.vocab_size:
            raise ValueError(
                f"rows {rows.tolist()} hold token {highest}, but the model has vocab_size={self.vocab_size}: "
                "the data was made with another tokenizer; preprocess it again with the model's own"
            )
