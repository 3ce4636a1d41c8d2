"""Attention of decoding: exact, equal in both forms, and the same bits whatever lies around a row's own blocks."""

from __future__ import annotations

from typing import Protocol

import pytest
import torch
from torch import Tensor

from mindspeed_dpo.device.ops.decode_attention import (
    BlockAttention,
    VisibleKeys,
    block_attention,
    by_embedding_bags,
    by_matrix_products,
)

pytestmark = pytest.mark.numerics

BLOCK = 64
HEADS = (2, 4, 16)
SCALE = 0.25


class Form(Protocol):
    """A form of attention, for so many query groups, heads of each and so wide ones."""

    def __call__(self, reach: VisibleKeys, heads: tuple[int, int, int] = HEADS) -> BlockAttention: ...


FORMS: dict[str, Form] = {
    "bags": lambda reach, heads=HEADS: by_embedding_bags(reach, heads, SCALE),
    "products": lambda reach, heads=HEADS: by_matrix_products(reach, SCALE),
}
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def drawn(blocks: int, rows: int, heads: tuple[int, int, int] = HEADS) -> tuple[Tensor, Tensor, Tensor]:
    """Query, keys and values."""
    generator = torch.Generator().manual_seed(0)
    groups, _, width = heads
    query = torch.randn(rows, *heads, generator=generator)
    keys = torch.randn(blocks, rows, groups, width, BLOCK, generator=generator)
    return query, keys, torch.randn(blocks, rows, groups, BLOCK, width, generator=generator)


@forms
@pytest.mark.parametrize("window", [None, 7, 200])
@pytest.mark.parametrize("heads", [HEADS, (1, 4, 16), (1, 1, 16), (4, 1, 16)])
def test_it_is_exact_softmax_attention(window: int | None, heads: tuple[int, int, int], form: Form) -> None:
    query, keys, values = drawn(5, 4, heads)
    positions = torch.tensor([2, 5 * BLOCK - 1, 300, 0])
    actual = form(VisibleKeys(positions, 0, 5, BLOCK, window), heads)(query, keys, values)
    for row, position in enumerate(positions.tolist()):
        start = 0 if window is None else max(0, position + 1 - window)
        flat = [t[:, row].transpose(0, 1).flatten(1, 2)[:, start : position + 1] for t in (keys.mT, values)]
        weights = (query[row] @ flat[0].transpose(1, 2) * SCALE).softmax(-1)
        torch.testing.assert_close(actual[row], weights @ flat[1])


@forms
def test_hidden_blocks_before_and_after_change_no_bit(form: Form) -> None:
    query, keys, values = drawn(40, 2)
    positions = torch.tensor([20 * BLOCK + 5, 20 * BLOCK + 37])
    results = [
        form(VisibleKeys(positions, a, b, BLOCK, 2 * BLOCK))(query, keys[a:b], values[a:b])
        for a, b in [(18, 21), (18, 40), (0, 21), (3, 33)]
    ]
    assert all(torch.equal(result, results[0]) for result in results)


@forms
def test_neighbours_of_other_length_change_no_bit(form: Form) -> None:
    query, keys, values = drawn(9, 3)
    results = [
        form(VisibleKeys(torch.tensor([other, 130, last]), 0, last // BLOCK + 1, BLOCK))(
            query, keys[: last // BLOCK + 1], values[: last // BLOCK + 1]
        )[1]
        for other, last in [(0, 130), (130, 140), (500, 575)]
    ]
    assert all(torch.equal(result, results[0]) for result in results)


@forms
def test_rows_of_some_slots_have_the_bits_of_those_of_all(form: Form) -> None:
    query, keys, values = drawn(9, 5)
    positions = torch.tensor([70, 130, 500, 9 * BLOCK - 1, 130])
    keys[:2, 4], values[:2, 4] = keys[:2, 1], values[:2, 1]
    complete = form(VisibleKeys(positions, 0, 9, BLOCK))(query, keys, values)
    for slots in ([1, 4], [0], [4, 3, 1]):
        at = torch.tensor(slots)
        same = torch.tensor([[1, 2] if slot == 4 else [slot, 0] for slot in slots])
        reach = VisibleKeys(positions[at], 0, 9, BLOCK, None, same, at, num_slots=5)
        assert torch.equal(form(reach)(query[at], keys, values), complete[at])


def test_the_host_takes_bags_for_float32_and_products_else() -> None:
    query, keys, values = drawn(2, 2)
    reach = VisibleKeys(torch.tensor([100, 3]), 0, 2, BLOCK)
    actual = block_attention(reach, HEADS, SCALE, torch.float32)(query, keys, values)
    assert torch.equal(actual, FORMS["bags"](reach)(query, keys, values))
    halves = [t.bfloat16() for t in (query, keys, values)]
    assert torch.equal(block_attention(reach, HEADS, SCALE, torch.bfloat16)(*halves), FORMS["products"](reach)(*halves))
