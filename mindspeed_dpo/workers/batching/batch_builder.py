"""Builds a worker's micro-batches: from dataset rows to packed micro-batches on its device.

Every worker gets the rows of all ranks, makes the same plan of which rank takes which, and reads its own, so no token
passes through the driver. The `pair_ids` of a micro-batch are the positions of its pairs among the given rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Protocol, overload

import numpy as np
import torch
from numpy.typing import NDArray

from mindspeed_dpo.batches import PackedBatch, PreferenceBatch
from mindspeed_dpo.config.estimates.workload import MultiplyAdds
from mindspeed_dpo.data.batching.data_parallel_split import Positions
from mindspeed_dpo.data.batching.micro_batch_plan import MicroBatchLimit, max_num_micro_batches, plan
from mindspeed_dpo.data.batching.packing_and_label_shift import pack, packed_sizes
from mindspeed_dpo.device.ops.sums import sum_dtype
from mindspeed_dpo.parallel.topology import ParallelRank
from mindspeed_dpo.workers.batching.token_range import check_token_range
from mindspeed_dpo.workers.role_values import Logps, Pairs, Rows


class PairSource(Protocol):
    """A source of pairs by number: a dataset, or a batch in memory."""

    def batch(self, rows: NDArray[np.int64]) -> PreferenceBatch:
        """Return the pairs of the given numbers [n] int64, in their order."""

    def lengths(self) -> NDArray[np.int32]:
        """Return the tokens of prompt and K responses of all pairs: [pairs, 1 + K] int32."""


@dataclass(frozen=True)
class InMemoryPairs:
    """Pairs in memory, such as the policy's own responses."""

    pairs: PreferenceBatch

    def batch(self, rows: NDArray[np.int64]) -> PreferenceBatch:
        """Return the pairs at the given positions [n] int64."""
        return self.pairs.select(rows.tolist())

    def lengths(self) -> NDArray[np.int32]:
        """Return the tokens of prompt and K responses of all pairs: [pairs, 1 + K] int32."""
        return self.pairs.lengths().numpy()


class MicroBatches(Sequence[PackedBatch]):
    """A sequence of micro-batches that packs each on its first use and caches it.

    With an asynchronous device the host packs one while the device computes those before it.
    """

    def __init__(self, makers: Sequence[Callable[[], PackedBatch]]) -> None:
        """Wrap the functions that pack one micro-batch each."""
        self._makers = [cache(make) for make in makers]

    def __len__(self) -> int:
        """Return the number of micro-batches."""
        return len(self._makers)

    def __iter__(self) -> Iterator[PackedBatch]:
        """Iterate; the default iterator of a sequence would take an IndexError raised while packing for the end."""
        return (make() for make in self._makers)

    @overload
    def __getitem__(self, index: int) -> PackedBatch: ...

    @overload
    def __getitem__(self, index: slice) -> list[PackedBatch]: ...

    def __getitem__(self, index: int | slice) -> PackedBatch | list[PackedBatch]:
        """Return one micro-batch, or a list for a slice."""
        if isinstance(index, slice):
            return [make() for make in self._makers[index]]
        return self._makers[index]()


@dataclass(frozen=True)
class BatchBuilder:
    """Plans, reads, packs and moves a worker's micro-batches.

    Attributes:
        dataset: Preference pairs by row; None where they come with each call.
        place: Ranks of this process.
        device: Device of the micro-batches.
        limit: Most pairs or rows of a micro-batch.
        costs: Costs by which work is balanced over the replicas.
        share_prompt: Compute a prompt once for all its responses.
        multiple_of: The rows of a micro-batch are padded to a multiple of this.
        vocab_size: Vocabulary size of the model.
    """

    dataset: PairSource | None
    place: ParallelRank
    device: torch.device
    limit: MicroBatchLimit
    costs: MultiplyAdds
    share_prompt: bool
    multiple_of: int
    vocab_size: int

    def over(self, pairs: Pairs) -> tuple[BatchBuilder, NDArray[np.int64]]:
        """Return a builder over the given pairs and their numbers [N] int64: dataset rows, or positions in a batch."""
        if isinstance(pairs, PreferenceBatch):
            return replace(self, dataset=InMemoryPairs(pairs)), np.arange(pairs.num_prompts)
        return self, np.asarray(pairs, dtype=np.int64)

    def micro_batches(self, rows: Rows, ref_logps: Logps | None = None) -> MicroBatches:
        """Return this rank's part of N rows, at least one micro-batch.

        Every rank must take part in the collectives. A rank without rows of its own therefore gets one pair of weight
        0. Where replicas share experts, which exchange tokens in every pass, all replicas get the same number of
        micro-batches, the last ones with a pair of weight 0.

        Args:
            rows: [N] int64 numbers of the pairs.
            ref_logps: [N, 2] float64 log-probabilities of the reference, in nats; None where no loss needs them.
        """
        return MicroBatches(self._makers(rows, ref_logps))

    def stream(self, rows: Rows) -> Iterator[PackedBatch]:
        """Iterate over the micro-batches of rows [N] int64, as `micro_batches`, without holding all in memory."""
        return (make() for make in self._makers(rows, None))

    def _makers(self, rows: Rows, ref_logps: Logps | None) -> list[Callable[[], PackedBatch]]:
        numbers = np.asarray(rows, dtype=np.int64)
        planned, padding = self._plan(numbers)
        references = None if ref_logps is None else torch.as_tensor(ref_logps, dtype=sum_dtype(self.device))
        weights = [1.0] * len(planned) + [0.0] * len(padding)
        parts = zip([*planned, *padding], weights, strict=True)
        return [partial(self._packed, numbers, positions, references, weight) for positions, weight in parts]

    def _plan(self, rows: NDArray[np.int64]) -> tuple[list[Positions], list[Positions]]:
        """Plan the positions, among the rows, of each micro-batch of this rank, and of those that are padding."""
        lengths, topology = self._source.lengths()[rows], self.place.topology
        sizes, seen = packed_sizes(lengths, share_prompt=self.share_prompt)
        costs, predictions = self.costs, lengths[:, 1:].sum(1, dtype=np.int64)
        work = costs.per_token * sizes + costs.per_label * predictions + costs.per_attended_key * seen
        planned = plan(sizes, work, self.limit, replicas=topology.dp, replica=self.place.dp_rank)
        if not topology.replicas_share_experts:
            return planned, [] if planned else [np.zeros(1, np.int64)]
        missing = max_num_micro_batches(sizes, work, self.limit, topology.dp) - len(planned)
        return planned, [np.argmin(sizes, keepdims=True)] * missing

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
        return packed.for_context_rank(self.place.cp_rank, self.place.topology.cp).to(self.device)

    @property
    def _source(self) -> PairSource:
        assert self.dataset is not None, "without a dataset the pairs come with each call"
        return self.dataset

    def _check_tokens(self, batch: PreferenceBatch, rows: NDArray[np.int64]) -> None:
        check_token_range(*batch.token_range(), rows.tolist(), self.vocab_size)
