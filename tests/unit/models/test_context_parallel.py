"""A packed row split over ranks: log-probabilities, statistics and every gradient are those of one process."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from mindspeed_dpo.batches import PreferenceBatch
from mindspeed_dpo.config.settings.model import ModelConfig
from tests.support.closeness import ROUNDING, assert_same_tensors
from tests.support.processes import pool
from tests.unit.models import context_jobs as jobs
from tests.unit.models.policy_jobs import MODEL, TIED

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

PAIRS = PreferenceBatch.from_lists(
    [[5, 1, 2], [7, 20], [11, 4, 9]], [[[3], [4, 9, 6]], [[8, 1], [2, 0]], [[20, 19, 0], [1]]]
)
LONG_PROMPT = PreferenceBatch.from_lists([list(range(20))], [[[3, 2], [4]]])
"""All that is predicted lies in the last quarter."""
ONE_KEY_HEAD = replace(MODEL, num_query_groups=1)
THREE_KEY_HEADS = replace(MODEL, num_attention_heads=12, num_query_groups=3, kv_channels=4, hidden_size=48)
WINDOW = replace(MODEL, sliding_window=3)
CASES: dict[str, tuple[ModelConfig, PreferenceBatch, int, bool]] = {
    "two ranks": (MODEL, PAIRS, 2, True),
    "prompts repeated": (MODEL, PAIRS, 2, False),
    "tied": (TIED, PAIRS, 2, True),
    "one key head": (ONE_KEY_HEAD, PAIRS, 2, True),
    "three key heads over two ranks": (THREE_KEY_HEADS, PAIRS, 2, True),
    "three key heads over four ranks": (THREE_KEY_HEADS, PAIRS, 4, False),
    "a window": (WINDOW, PAIRS, 2, True),
    "ranks that predict nothing": (MODEL, LONG_PROMPT, 4, True),
}


@cache
def alone(case: str) -> tuple[Tensor, dict[str, Tensor]]:
    model, batch, _, share_prompt = CASES[case]
    actual: tuple[Tensor, dict[str, Tensor]] = pool(1).run(jobs.columns_and_gradient, model, batch, 1, share_prompt)[0]
    return actual


@pytest.mark.parametrize("case", CASES)
def test_columns_and_gradients_are_those_of_one_process(case: str) -> None:
    model, batch, cp, share_prompt = CASES[case]
    columns, gradient = alone(case)
    for actual, grown in pool(cp).run(jobs.columns_and_gradient, model, batch, cp, share_prompt):
        torch.testing.assert_close(actual, columns, rtol=ROUNDING, atol=ROUNDING)
        assert_same_tensors(grown, gradient)


@pytest.mark.parametrize("sequence_parallel", [True, False])
def test_columns_are_those_of_one_process_where_tensor_ranks_join(sequence_parallel: bool) -> None:
    columns, _ = alone("two ranks")
    for actual, _ in pool(4).run(jobs.columns_and_gradient, MODEL, PAIRS, 2, True, sequence_parallel):
        torch.testing.assert_close(actual, columns, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize(("heads", "groups", "held"), [(4, 4, 2), (4, 2, 1), (4, 1, 1), (12, 3, 3)])
def test_every_query_head_meets_the_key_head_it_belongs_to(heads: int, groups: int, held: int) -> None:
    rows = torch.arange(6.0)[:, None, None] * 100
    query = (rows + torch.arange(float(heads))[:, None]).expand(6, heads, 3)
    # A key says which group it is; a query's group is its head divided by the heads of a group.
    key = (rows + torch.arange(float(groups))[:, None]).expand(6, groups, 3)
    for rank, (attended, back) in enumerate(pool(2).run(jobs.exchanged, query, key, -key)):
        q, k, v = attended
        assert q.shape == (6, heads // 2, 3) and k.shape == v.shape == (6, held, 3)
        torch.testing.assert_close(q, query.chunk(2, 1)[rank])
        met = k.repeat_interleave(heads // 2 // held, 1)
        torch.testing.assert_close(met - rows, (q - rows).div(heads // groups).floor())
        torch.testing.assert_close(v, -k)
        torch.testing.assert_close(back, query.chunk(2)[rank])
