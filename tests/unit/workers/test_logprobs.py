"""From columns to numbers per row: sums by response, token statistics, workload metrics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from mindspeed_dpo.algorithms.token_statistics import token_statistics
from mindspeed_dpo.algorithms.wpo import wpo_weights
from mindspeed_dpo.batches import PackedBatch, PreferenceBatch
from mindspeed_dpo.batches.logprob_columns import LOG_COLLISION, LOGP
from mindspeed_dpo.data.batching.packing_and_label_shift import pack
from mindspeed_dpo.device.ops.kernels import Kernels, use
from mindspeed_dpo.parallel.topology import ParallelRank, Topology
from mindspeed_dpo.workers import logprobs
from mindspeed_dpo.workers.logprobs import (
    response_logps,
    score_pairs,
    score_tokens,
    workload_metrics,
)
from mindspeed_dpo.workers.role_values import join_replicas

pytestmark = pytest.mark.numerics

CPU = torch.device("cpu")
BATCH = PreferenceBatch.from_lists([[1], [2, 2]], [[[3], [4, 4]], [[5, 5, 5], [6]]])


@dataclass
class GivenBatches:
    """A batch builder with fixed batches."""

    batches: list[PackedBatch]
    topology: Topology
    rank: int = 0
    device: torch.device = CPU

    @property
    def place(self) -> ParallelRank:
        return self.topology.place(self.rank)

    def over(self, pairs: object) -> tuple[GivenBatches, object]:
        return self, pairs

    def stream(self, rows: object) -> Iterator[PackedBatch]:
        yield from self.batches


@dataclass
class LabelsAsScores:
    """An engine whose log-probability of a token is minus its id, noting how many micro-batches it held at once."""

    held: list[int] = field(default_factory=list)

    def score(self, batches: list[PackedBatch]) -> list[Tensor]:
        self.held.append(len(batches))
        return [-batch.labels[:, None].float() for batch in batches]


def packed(*pairs: int, at: list[int], weight: float = 1.0) -> PackedBatch:
    """Pairs of `BATCH` at these positions of the full batch."""
    weights = torch.full((len(pairs),), weight)
    return pack(BATCH.select(pairs), pair_ids=torch.tensor(at), weights=weights)


def test_token_scores_are_summed_by_response_over_the_micro_batches() -> None:
    batch_builder = GivenBatches([packed(0, 1, at=[2, 0]), packed(1, at=[1])], Topology())
    actual = score_pairs(LabelsAsScores(), batch_builder, [0, 1, 1])  # type: ignore[arg-type]
    assert actual is not None and actual.values.dtype == np.float64
    assert actual.positions.tolist() == [2, 0, 1]
    assert actual.values.tolist() == [[-3, -8], [-15, -6], [-15, -6]]
    assert join_replicas([actual]).tolist() == [[-15, -6], [-15, -6], [-3, -8]]


@pytest.mark.parametrize("share_prompt", [True, False])
@pytest.mark.parametrize("kernels", [None, Kernels(object(), "cpu")], ids=["float64", "as on NPU"])
def test_long_responses_are_summed_exactly_in_a_packed_row(share_prompt: bool, kernels: Kernels | None) -> None:
    lengths = [[1, 16_000], [83, 1_000], [16_000, 2]]
    batch = PreferenceBatch.from_lists([[1], [2, 2], [3]], [[[5] * count for count in row] for row in lengths])
    row = pack(batch, share_prompt=share_prompt, multiple_of=64).for_context_rank(1, 2)
    values = -12 * torch.rand(sum(map(sum, lengths)), generator=torch.Generator().manual_seed(1)).square()
    use(kernels)
    try:
        actual = response_logps(row, values[:, None])
        weighted = response_logps(row, values[:, None], ld_alpha=0.5)
    finally:
        use(None)
    parts = values.double().split([count for of_pair in lengths for count in of_pair])
    expected = torch.stack([part.sum() for part in parts]).view(3, 2)
    shorter = [min(of_pair) for of_pair in lengths for _ in of_pair]
    halved = [(part[:end].sum() + part.sum()) / 2 for part, end in zip(parts, shorter, strict=True)]
    torch.testing.assert_close(actual.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(weighted.double(), torch.stack(halved).view(3, 2), rtol=1e-6, atol=0)


def test_scores_of_tokens_know_their_places_among_all() -> None:
    sampled = BATCH.select([1, 0, 1])
    shares = []
    for batches in ([packed(1, at=[2]), packed(1, at=[0])], [packed(0, at=[1])], [packed(0, at=[1], weight=0.0)]):
        shares.append(score_tokens(LabelsAsScores(), GivenBatches(batches, Topology()), sampled))  # type: ignore[arg-type]
    assert [len(share.positions) for share in shares if share] == [8, 3, 0]
    assert join_replicas([share for share in shares if share]).tolist() == (-sampled.response_tokens).tolist()


def test_only_some_micro_batches_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "HELD_MICRO_BATCHES", 2)
    engine = LabelsAsScores()
    batch_builder = GivenBatches([packed(p, at=[n]) for n, p in enumerate((0, 1, 1, 0, 0))], Topology())
    actual = score_pairs(engine, batch_builder, range(5))  # type: ignore[arg-type]
    assert actual is not None and actual.values[:, 0].tolist() == [-3, -15, -15, -3, -3]
    assert engine.held == [2, 2, 1]


def test_the_pair_of_a_replica_without_rows_is_not_returned() -> None:
    batch_builder = GivenBatches([packed(0, at=[0], weight=0.0)], Topology(dp=3), rank=2)
    actual = score_pairs(LabelsAsScores(), batch_builder, [7, 8])  # type: ignore[arg-type]
    assert actual is not None and (actual.positions.shape, actual.values.shape) == ((0,), (0, 2))


@pytest.mark.parametrize(("topology", "rank"), [(Topology(tp=2), 1), (Topology(cp=2), 1), (Topology(pp=2), 0)])
def test_only_the_process_that_reports_for_its_replica_returns_values(topology: Topology, rank: int) -> None:
    batch_builder = GivenBatches([pack(BATCH)], topology, rank)
    assert score_pairs(LabelsAsScores(), batch_builder, [0, 1]) is None  # type: ignore[arg-type]


def test_statistics_are_averaged_over_the_tokens_they_speak_of() -> None:
    batch = pack(BATCH)
    # Tokens 0 to 6 belong to the responses 3 | 4 4 | 5 5 5 | 6; the first and the third are chosen.
    tokens = torch.arange(7.0)
    columns = torch.stack((-2 * tokens, tokens, (tokens % 2 == 0).float(), tokens * 10), -1)
    assert token_statistics(batch, columns).means() == pytest.approx(
        {
            "entropy": 21 / 7,
            "mean_token_accuracy": 2 / 4,
            "nll": 2 * (0 + 3 + 4 + 5) / 4,
            "logits/chosen": 10 * (0 + 3 + 4 + 5) / 4,
            "logits/rejected": 10 * (1 + 2 + 6) / 3,
        }
    )


def test_pairs_of_weight_zero_count_in_no_statistic() -> None:
    columns = torch.randn(7, 4)
    half = token_statistics(pack(BATCH, weights=torch.tensor([0.0, 1.0])), columns).means()
    assert half == pytest.approx(token_statistics(pack(BATCH.select([1])), columns[3:]).means())


def test_computed_tokens_of_all_replicas_are_added_up() -> None:
    first, second = (Topology(dp=2).place(rank) for rank in range(2))
    sums = workload_metrics([pack(BATCH), pack(BATCH.select([0]))], first, None)
    sums.merge(workload_metrics([pack(BATCH)], second, None))
    assert sums.means() == {"tokens_computed": 10 + 4 + 10, "micro_batches": 3}


def test_a_budget_is_filled_as_far_as_its_micro_batches_are() -> None:
    first, second = (Topology(dp=2).place(rank) for rank in range(2))
    sums = workload_metrics([pack(BATCH), pack(BATCH.select([0]))], first, 16)
    sums.merge(workload_metrics([pack(BATCH)], second, 16))
    assert sums.means()["micro_batch_fill"] == pytest.approx((10 + 4 + 10) / (3 * 16))


def test_agreement_is_how_likely_the_pair_is() -> None:
    logits = torch.randn(7, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    batch = pack(BATCH)
    logits[torch.arange(3), batch.labels[:3]] += 5.0
    logps = logits.log_softmax(-1)
    columns = torch.zeros(7, 5, dtype=torch.float64)
    columns[:, LOGP] = logps.gather(1, batch.labels[:, None])[:, 0]
    columns[:, LOG_COLLISION] = logps.exp().square().sum(-1).log()
    ratio = columns[:, LOGP] - columns[:, LOG_COLLISION]
    responses = [ratio[0], ratio[1:3].mean(), ratio[3:6].mean(), ratio[6]]
    expected = torch.stack([responses[0] + responses[1], responses[2] + responses[3]]).exp()
    torch.testing.assert_close(wpo_weights(batch, columns), expected)
    assert (expected > 1).any()
    # As with clamp_weighting.
    torch.testing.assert_close(wpo_weights(batch, columns, clamp=True), expected.clamp(max=1))


def test_tokens_beyond_the_shorter_response_weigh_less() -> None:
    batch = pack(BATCH)
    columns = -batch.labels[:, None].float()
    assert response_logps(batch, columns, 0.5).tolist() == [[-3, -6], [-10, -6]]
    assert response_logps(batch, columns).tolist() == [[-3, -8], [-15, -6]]
