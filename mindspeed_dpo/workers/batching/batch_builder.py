"""A worker's share of the data: dataset rows in, packed micro-batches on its device out.

Every worker is given the rows of all ranks, plans alike who takes which, and reads its own: no token passes through the
driver. What a micro-batch is made of, and on which replica, is told by its `pair_ids`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mindspeed_dpo.batches import PackedBatch, PreferenceBatch
from mindspeed_dpo.config.estimates.memory import MultiplyAdds
from mindspeed_dpo.data.batching.packing import pack, packed_sizes
from mindspeed_dpo.data.batching.planning import Limit, Positions, plan
from mindspeed_dpo.parallel.topology import Place
from mindspeed_dpo.workers.batching.lazy_micro_batches import MicroBatches
from mindspeed_dpo.workers.interfaces import Logps, Pairs, Rows


class PairSource(Protocol):
    """Where pairs are looked up by number: a dataset, or a batch at hand."""

    def batch(self, rows: NDArray[np.int64]) -> PreferenceBatch:
        """The pairs of the given numbers, in their order."""

    def lengths(self) -> NDArray[np.int32]:
        """[all numbers, 1 + K] tokens of prompt and responses."""


@dataclass(frozen=True)
class GivenPairs:
    """Pairs at hand, such as the policy's own answers."""

    pairs: PreferenceBatch

    def batch(self, rows: NDArray[np.int64]) -> PreferenceBatch:
        """The pairs of the given positions."""
        return self.pairs.select(rows.tolist())

    def lengths(self) -> NDArray[np.int32]:
        """See `PairSource`."""
        return self.pairs.lengths().numpy()


@dataclass(frozen=True)
class Feed:
    """Plans, reads, packs and moves a worker's micro-batches.

    Attributes:
        dataset: Preference pairs by row; None where they always come with the call.
        place: Where this worker stands.
        device: Where the batches go.
        limit: What a micro-batch holds.
        costs: By which work is balanced over the replicas.
        share_prompt: Compute a prompt once for both responses.
        multiple_of: What the rows of a micro-batch are padded to a multiple of.
        vocab_size: Token ids the model knows.
    """

    dataset: PairSource | None
    place: Place
    device: torch.device
    limit: Limit
    costs: MultiplyAdds
    share_prompt: bool
    multiple_of: int
    vocab_size: int

    def over(self, pairs: Pairs) -> tuple[Feed, NDArray[np.int64]]:
        """A feed and the numbers by which it knows the pairs: those given, or those at hand."""
        if isinstance(pairs, PreferenceBatch):
            return replace(self, dataset=GivenPairs(pairs)), np.arange(pairs.num_prompts)
        return self, np.asarray(pairs, dtype=np.int64)

    def micro_batches(self, rows: Rows, ref_logps: Logps | None = None) -> MicroBatches:
        """This rank's part of the rows [N], at least one micro-batch.

        A rank without rows of its own gets one pair of weight 0: every rank must take part in the collectives.
        """
        return MicroBatches(self._makers(rows, ref_logps))

    def stream(self, rows: Rows, ref_logps: Logps | None = None) -> Iterator[PackedBatch]:
        """As `micro_batches`, one after the other, for more rows than should be held at once."""
        return (make() for make in self._makers(rows, ref_logps))

    def _makers(self, rows: Rows, ref_logps: Logps | None) -> list[Callable[[], PackedBatch]]:
        numbers = np.asarray(rows, dtype=np.int64)
        planned = self._plan(numbers)
        references = None if ref_logps is None else torch.as_tensor(ref_logps, dtype=torch.float32)
        weight = 1.0 if planned else 0.0
        everyone = planned or [np.zeros(1, np.int64)]
        return [partial(self._packed, numbers, positions, references, weight) for positions in everyone]

    def _plan(self, rows: NDArray[np.int64]) -> list[Positions]:
        """Positions among the rows of each micro-batch of this rank."""
        lengths, topology = self._source.lengths()[rows], self.place.topology
        sizes, seen = packed_sizes(lengths, share_prompt=self.share_prompt)
        costs, predictions = self.costs, lengths[:, 1:].sum(1, dtype=np.int64)
        work = costs.row * sizes + costs.prediction * predictions + costs.seen_key * seen
        return plan(sizes, work, self.limit, replicas=topology.dp, replica=self.place.dp_rank)

    def _packed(
        self, rows: NDArray[np.int64], positions: Positions, references: torch.Tensor | None, weight: float
    ) -> PackedBatch:
        batch = self._source.batch(rows[positions])
        self._check_tokens(batch, rows[positions])
        if references is not None:
            batch = batch.with_ref_logps(references[positions])
        packed = pack(
            batch,
            share_prompt=self.share_prompt,
            multiple_of=self.multiple_of,
            weights=torch.full((len(positions),), weight),
            pair_ids=torch.from_numpy(positions),
        )
        return packed.divided(self.place.cp_rank, self.place.topology.cp).to(self.device)

    @property
    def _source(self) -> PairSource:
        assert self.dataset is not None, "pairs must come with the call where there is no dataset"
        return self.dataset

    def _check_tokens(self, batch: PreferenceBatch, rows: NDArray[np.int64]) -> None:
        highest = int(max(batch.prompt_tokens.max(), batch.response_tokens.max()))
        if highest >= self.vocab_size:
            raise ValueError(
                f"rows {rows.tolist()} hold token {highest}, but the model has vocab_size={self.vocab_size}: "
                "the data was made with another tokenizer; preprocess it again with the model's own"
            )
