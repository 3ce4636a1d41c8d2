"""Products of runs of rows: the definition, with runs that are empty, and the operator of torch_npu as documented."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mindspeed_dpo.device.ops.grouped_linear import grouped_linear, plain_grouped_linear
from mindspeed_dpo.device.ops.kernels import Kernels, use
from mindspeed_dpo.device.ops.limits import OperatorLimit

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
