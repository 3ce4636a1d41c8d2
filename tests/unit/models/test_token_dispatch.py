"""Tokens and experts on any ranks: outputs and gradients are those of one expert after the other."""

from __future__ import annotations

import pytest
import torch

from tests.support.closeness import assert_same_tensors
from tests.support.processes import pool
from tests.unit.models import expert_jobs as jobs

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]


@pytest.mark.parametrize(
    ("counts", "ep"),
    [([7], 1), ([0], 1), ([4, 3], 2), ([5, 0], 2), ([0, 0], 2), ([3, 2], 1), ([2, 0, 4], 3)],
    ids=["one rank", "no token", "two", "a rank without tokens", "no token anywhere", "copies", "three"],
)
def test_outputs_and_gradients_are_those_of_one_expert_after_the_other(counts: list[int], ep: int) -> None:
    actual = pool(len(counts)).run(jobs.computed, counts, ep)
    matrix = jobs.matrices().requires_grad_()
    share = jobs.NUM_EXPERTS // ep
    for rank, (rows, weights, experts) in enumerate(jobs.tokens(counts)):
        rows.requires_grad_(), weights.requires_grad_()
        output = jobs.by_definition(rows, weights, experts, matrix)
        output.square().sum().backward()
        names = ("output", "rows", "weights")
        assert rows.grad is not None and weights.grad is not None
        expected = dict(zip(names, (output.detach(), rows.grad, weights.grad), strict=True))
        assert_same_tensors(dict(zip(names, actual[rank][:3], strict=True)), expected)
    assert matrix.grad is not None
    for first in range(0, jobs.NUM_EXPERTS, share):
        holders = [result[3] for rank, result in enumerate(actual) if rank % ep == first // share]
        assert_same_tensors({"matrices": torch.stack(holders).sum(0)}, {"matrices": matrix.grad[first : first + share]})
