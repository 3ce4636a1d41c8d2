"""Filters against Hugging Face's, and the sampler against exact distributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mindspeed_dpo.config.settings.generation import RolloutConfig
from mindspeed_dpo.rollout.repetition_penalty import penalized
from mindspeed_dpo.rollout.sampling import INVALID, choose, draw, filter_scores, invert, log_probs, uniforms

pytestmark = pytest.mark.numerics


def logits(rows: int = 4, columns: int = 311, seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def reference(ids: Tensor, scores: Tensor, settings: RolloutConfig) -> Tensor:
    """Hugging Face's processors in the order in which its `generate` puts them."""
    steps = LogitsProcessorList()
    if settings.repetition_penalty != 1:
        steps.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    steps.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k:
        steps.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1:
        steps.append(TopPLogitsWarper(settings.top_p))
    if settings.min_p:
        steps.append(MinPLogitsWarper(settings.min_p))
    return steps(ids, scores.clone())


@given(
    penalty=st.sampled_from([1.0, 0.8, 1.3]),
    temperature=st.sampled_from([1.0, 0.7, 1.6]),
    top_k=st.sampled_from([0, 1, 5, 50, 1000]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    seed=st.integers(0, 1000),
)
def test_filters_keep_what_hugging_face_keeps(
    penalty: float, temperature: float, top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    settings = RolloutConfig(repetition_penalty=penalty, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    scores = logits(seed=seed)
    ids = torch.randint(311, (4, 9), generator=torch.Generator().manual_seed(seed))
    seen = torch.zeros(4, 311, dtype=torch.bool).scatter_(1, ids, True)
    actual = filter_scores(penalized(scores, seen, penalty) / temperature, settings)
    expected = reference(ids, scores, settings)
    assert torch.equal(actual.isinf(), expected.isinf())
    torch.testing.assert_close(actual.softmax(-1), expected.softmax(-1))


def test_ties_at_the_edge_of_top_k_all_remain() -> None:
    scores = torch.tensor([[1.0, 3.0, 3.0, 3.0, 0.0]])
    assert filter_scores(scores, RolloutConfig(temperature=1.0, top_k=2)).isinf().tolist() == [
        [True, False, False, False, True]
    ]


def test_without_sampling_the_likeliest_token_is_taken_after_the_penalty() -> None:
    scores = torch.tensor([[1.0, 4.0, 3.0], [-2.0, -1.0, -3.0]])
    seen = torch.tensor([[False, True, False], [False, True, False]])
    settings = RolloutConfig(repetition_penalty=3.0, top_k=1)
    assert choose(scores, torch.zeros(2), settings).tolist() == [1, 1]
    assert choose(scores, torch.zeros(2), settings, seen).tolist() == [2, 0]


@pytest.mark.parametrize("columns", [3, 127, 128, 129, 1000])
@pytest.mark.parametrize("changes", [{}, {"top_k": 7}, {"top_p": 0.6}, {"min_p": 0.1}, {"temperature": 0.5}], ids=str)
def test_sampled_frequencies_follow_the_distribution(columns: int, changes: dict[str, float]) -> None:
    draws = 40_000
    settings = RolloutConfig(**{"temperature": 1.0, **changes})  # type: ignore[arg-type]
    row = logits(1, columns, scale=1.5)
    numbers = torch.from_numpy(uniforms(5, 6, 7, draws))
    actual = torch.cat([choose(row.expand(len(part), -1), part, settings) for part in numbers.split(2000)])
    counts = torch.bincount(actual, minlength=columns).double()
    expected = filter_scores(row / settings.temperature, settings)[0].double().softmax(-1) * draws
    assert (counts[expected == 0] == 0).all()
    # Rare tokens together, as the statistic needs at least five expected draws.
    rare = expected < 5
    counts, expected = (torch.cat([v[~rare], v[rare].sum()[None]]) for v in (counts, expected))
    is_possible = expected > 0
    statistic = float(((counts - expected)[is_possible] ** 2 / expected[is_possible]).sum())
    freedom = int(is_possible.sum()) - 1
    # Six standard deviations of chi-square; a sampler that is off by 2 % of a likely token fails by far.
    assert statistic < freedom + 6 * (2 * max(freedom, 1)) ** 0.5, (statistic, freedom)


def test_the_inverse_is_that_of_the_cumulative_distribution_in_float64() -> None:
    weights = logits(1, 32_000, seed=3).exp()
    numbers = torch.from_numpy(uniforms(1, 2, 3, 4000))
    cumulative = weights.double().cumsum(-1)[0]
    expected = torch.searchsorted(cumulative, numbers * cumulative[-1], right=True)
    actual = torch.cat([invert(weights.expand(len(part), -1), part) for part in numbers.split(500)])
    # Sums of runs are float32: a number within 1e-7 of an edge may fall to the other side.
    assert (actual != expected).sum() <= 1
    assert (actual - expected).abs().max() <= 1


@pytest.mark.parametrize("number", [0.0, 1 - 2**-53])
def test_the_ends_of_the_interval_take_the_first_and_the_last_token_with_weight(number: float) -> None:
    weights = torch.zeros(2, 500)
    weights[0, [130, 200, 390]] = torch.tensor([0.1, 0.3, 0.7])
    weights[1, 499] = 1e-30
    expected = [130, 499] if number == 0 else [390, 499]
    assert invert(weights, torch.full((2,), number, dtype=torch.float64)).tolist() == expected


def test_rows_that_are_not_finite_have_no_token() -> None:
    scores = logits(3, 50)
    scores[1, 4] = float("nan")
    scores[2, 4] = float("inf")
    numbers = torch.full((3,), 0.5, dtype=torch.float64)
    for settings in (RolloutConfig(), RolloutConfig(top_k=1)):
        tokens = choose(scores, numbers, settings).tolist()
        assert tokens[0] >= 0 and tokens[1:] == [INVALID, INVALID]


def test_numbers_of_a_response_are_its_own() -> None:
    streams = {(s, n, k): uniforms(s, n, k, 50) for s in (1, 2, -1) for n in (0, 7) for k in (0, 1)}
    values = np.concatenate(list(streams.values()))
    assert len(np.unique(values)) == values.size
    assert values.min() >= 0 and values.max() < 1
    assert np.array_equal(uniforms(1, 7, 1, 20), streams[1, 7, 1][:20])


@pytest.mark.parametrize("columns", [40_000, 70_000])
def test_a_row_is_sampled_the_same_beside_others(columns: int) -> None:
    """Sums of a row that is long enough to be shared by threads, alone and with others."""
    scores, numbers = logits(25, columns), torch.rand(25, dtype=torch.float64)
    # With a likely token the logarithm of the sum is small, and its last bits are those of the sum.
    scores[:, 7] = 22
    settings, threads = RolloutConfig(temperature=0.9), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        tokens, logps = draw(scores, numbers, settings, None, with_logps=True)
        for count in (1, 2, 3, 4):
            pairs = zip(scores.split(count), numbers.split(count), strict=True)
            some = [draw(*pair, settings, None, with_logps=True) for pair in pairs]
            assert torch.equal(torch.cat([part[0] for part in some]), tokens)
            assert torch.equal(torch.cat([part[1] for part in some]), logps)
    finally:
        torch.set_num_threads(threads)


def test_log_probs_are_those_of_the_unfiltered_softmax() -> None:
    scores = logits()
    tokens = torch.tensor([0, 310, 5, 77])
    expected = scores.double().log_softmax(-1)[range(4), tokens].float()
    torch.testing.assert_close(log_probs(scores, tokens), expected)
