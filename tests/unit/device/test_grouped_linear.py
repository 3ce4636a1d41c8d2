"""Products of runs of rows: the definition, with runs that are empty, and the operator of torch_npu as documented."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mindspeed_dpo.device.ops.decode_grouped_linear import grouped_product, in_one_block
from mindspeed_dpo.device.ops.grouped_linear import grouped_linear, plain_grouped_linear
from mindspeed_dpo.device.ops.kernels import Kernels, use
from mindspeed_dpo.device.ops.operator_limits import OperatorLimit

COUNTS = [[3, 0, 2], [0, 0, 5], [0, 0, 0]]


class GroupedMatmul:
    """The documented meaning of `npu_grouped_matmul` for one list item, and with cumulative ends of the groups."""

    def npu_grouped_matmul(
        self, x: list[Tensor], weight: list[Tensor], *, group_list: Tensor, split_item: int, group_type: int,
        group_list_type: int,
    ) -> list[Tensor]:  # fmt: skip
        (left,), (right,) = x, weight
        assert split_item in (2, 3) and group_list_type == 0 and group_list.dtype == torch.int64
        ends = group_list.tolist()
        runs = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        if group_type == 0:
            return [torch.cat([left[run] @ matrix for run, matrix in zip(runs, right, strict=True)])]
        assert group_type == 2
        return [torch.stack([left[:, run] @ right[run] for run in runs])]


@pytest.fixture
def on_npu() -> Iterator[None]:
    use(Kernels(GroupedMatmul(), "cpu"))
    yield
    use(None)


def leaves(counts: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    rows, weight = torch.randn(sum(counts), 4), torch.randn(3, 6, 4)
    return rows.requires_grad_(), weight.requires_grad_(), torch.tensor(counts)


@pytest.mark.parametrize("counts", COUNTS)
def test_each_run_meets_its_matrix(counts: list[int]) -> None:
    rows, weight, number = leaves(counts)
    experts = torch.repeat_interleave(torch.arange(3), number)
    expected = torch.einsum("mi,moi->mo", rows, weight[experts])
    actual = grouped_linear(rows, weight, number)
    torch.testing.assert_close(actual, expected)
    upstream = torch.randn_like(actual)
    ours, theirs = (torch.autograd.grad(out, (rows, weight), upstream) for out in (actual, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.usefixtures("on_npu")
def test_the_operator_of_torch_npu_is_called_for_the_same(counts: list[int]) -> None:
    rows, weight, number = leaves(counts)
    actual, expected = grouped_linear(rows, weight, number), plain_grouped_linear(rows, weight, number)
    torch.testing.assert_close(actual, expected)
    upstream = torch.randn_like(actual)
    ours, theirs = (torch.autograd.grad(out, (rows, weight), upstream) for out in (actual, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.usefixtures("on_npu")
def test_what_the_operator_does_not_support_is_refused() -> None:
    wide = torch.zeros(1, 2, 65536, dtype=torch.bfloat16)
    with pytest.raises(OperatorLimit, match="a width up to 65535"):
        grouped_linear(torch.zeros(3, 65536, dtype=torch.bfloat16), wide, torch.tensor([3]))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_does_not_depend_on_the_rows_beside_it(dtype: torch.dtype, packed: bool) -> None:
    """To the bit; sizes at which a matrix library picks its real kernels."""
    torch.manual_seed(0)
    rows, matrices = torch.randn(40, 256, dtype=dtype), torch.randn(3, 96, 256, dtype=dtype)
    product = grouped_product(list(matrices), packed=packed)
    together = product(rows, torch.tensor([33, 0, 7]))
    assert torch.equal(product(rows[20:36], torch.tensor([13, 0, 3])), together[20:36])
    for first in (0, 5, 31):
        for last in range(first + 1, 34):
            assert torch.equal(product(rows[first:last], torch.tensor([last - first, 0, 0])), together[first:last])
    long = product(rows.repeat(9, 1)[:330], torch.tensor([33, 0, 297]))
    assert torch.equal(long[:33], together[:33])
    expected = plain_grouped_linear(rows.float(), matrices.float(), torch.tensor([33, 0, 7]))
    torch.testing.assert_close(together, expected.to(dtype), rtol=1e-2, atol=0.2 if dtype == torch.bfloat16 else 1e-3)
    assert product(rows[:0], torch.tensor([0, 0, 0])).shape == (0, 96)


def test_matrices_in_one_block_are_not_copied() -> None:
    block = torch.randn(3, 4, 5)
    assert torch.equal(in_one_block(block.unbind(0)), block)
    assert in_one_block(block.unbind(0)).data_ptr() == block.data_ptr()
    apart = [block[2], block[0]]
    assert torch.equal(in_one_block(apart), torch.stack(apart))
