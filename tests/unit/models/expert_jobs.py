"""What the tests of experts let a pool of processes do: compute tokens with the experts of all ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from mindspeed_dpo.device.ops.grouped_linear import plain_grouped_linear
from mindspeed_dpo.models.moe.router import Routing
from mindspeed_dpo.models.moe.token_dispatch import TokenDispatch
from mindspeed_dpo.parallel import process_groups
from mindspeed_dpo.parallel.expert_parallel import ExpertGroup
from mindspeed_dpo.parallel.topology import Topology
from tests.support.processes import leave_layout

NUM_EXPERTS = 6


def tokens(counts: list[int], seed: int = 0) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For each rank: [t, 3] rows, [t, 2] weights and [t, 2] experts, of which the last is never chosen."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for count in counts:
        rows, weights = torch.randn(count, 3, generator=generator), torch.rand(count, 2, generator=generator)
        experts = torch.rand(count, NUM_EXPERTS - 1, generator=generator).argsort(1)[:, :2]
        drawn.append((rows, weights, experts))
    return drawn


def matrices() -> Tensor:
    """[experts, 3, 3] weights of the experts."""
    return torch.randn(NUM_EXPERTS, 3, 3, generator=torch.Generator().manual_seed(5))


def by_definition(rows: Tensor, weights: Tensor, experts: Tensor, matrix: Tensor) -> Tensor:
    """[t, 3], one token and one expert after the other."""
    outputs = [
        sum((weights[t, k] * (matrix[experts[t, k]] @ rows[t]) for k in range(2)), torch.zeros(3))
        for t in range(len(rows))
    ]
    # Without tokens the gradients are zeros instead of being absent.
    return torch.stack(outputs) if outputs else rows * weights.sum() * matrix.sum()


def computed(counts: list[int], ep: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """This rank's outputs, the gradients of its rows and of the weights, and that of its experts' matrices."""
    leave_layout()
    process_groups.split(Topology(dp=dist.get_world_size(), ep=ep))
    group = ExpertGroup.current()
    rows, weights, experts = tokens(counts)[dist.get_rank()]
    rows.requires_grad_(), weights.requires_grad_()
    local = group.local_experts(NUM_EXPERTS)
    own = matrices()[local.start : local.stop].requires_grad_()
    dispatch = TokenDispatch(group, NUM_EXPERTS)
    output = dispatch.apply(
        lambda x, n: plain_grouped_linear(x, own, n), rows, Routing(weights, experts, torch.empty(0))
    )
    output.square().sum().backward()
    assert rows.grad is not None and weights.grad is not None and own.grad is not None
    return output.detach(), rows.grad, weights.grad, own.grad
