"""Updates against AdamW with clipping, written once more in float64 from the gradients that the engine computed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.support.processes import pool
from tests.unit.engine.engine_jobs import Setup
from tests.unit.engine.optimizer_jobs import updates

pytestmark = pytest.mark.distributed

RATES, DECAY, BETA1, BETA2 = [0.02, 0.05, 0.01], 0.3, 0.7, 0.95
# Limit of the norm, factor on the loss, epsilon of Adam. A limit of 1e-6 shows the 1e-6 that is added to the norm; an
# epsilon about as large as the clipped gradients' elements shows their size, which Adam alone hides.
CASES = {
    "not clipped": (0.0, 1.0, 1e-2),
    "clipped below 1": (0.05, 1.0, 1e-3),
    "clipped at 1": (1.0, 30.0, 1e-2),
    "clipped above 1": (2.0, 100.0, 1e-2),
    "norms near the epsilon of clipping": (1e-6, 1e-5, 1e-7),
    "norms below the limit": (1e3, 1.0, 1e-2),
}


@pytest.mark.parametrize(("clip_grad", "loss_factor", "epsilon"), CASES.values(), ids=CASES.keys())
def test_updates_are_those_of_an_adamw_that_clips(clip_grad: float, loss_factor: float, epsilon: float) -> None:
    adam = {"adam_beta1": BETA1, "adam_beta2": BETA2, "adam_eps": epsilon}
    setup = Setup(clip_grad=clip_grad, weight_decay=DECAY, adam=adam)
    ((start, steps),) = pool(1).run(updates, setup, RATES, loss_factor)
    reference = {name: Reference(name, value.double(), epsilon) for name, value in start.items()}
    for number, (rate, (gradients, after)) in enumerate(zip(RATES, steps, strict=True), 1):
        norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients.values()))
        factor = min(1.0, clip_grad / (norm + 1e-6)) if clip_grad else 1.0
        assert (factor < 0.9) == (0 < clip_grad < 1e3), (norm, clip_grad)
        moved = []
        for name, one in reference.items():
            before = one.value.clone()
            one.update(gradients[name].double() * factor, rate, number)
            moved.append((one.value - before, after[name].double() - before))
        expected, actual = (torch.cat([change.flatten() for change in changes]) for changes in zip(*moved, strict=True))
        # Parameters near 1 are rounded at 6e-8, and each step's change is of the order of its rate.
        assert float((actual - expected).norm() / expected.norm()) < 1e-4, number


class Reference:
    """A parameter under AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), float64."""

    def __init__(self, name: str, value: Tensor, epsilon: float) -> None:
        self.value, self.epsilon = value, epsilon
        self.decay = 0.0 if name.endswith("bias") or "norm" in name else DECAY
        self.first, self.second = torch.zeros_like(value), torch.zeros_like(value)

    def update(self, gradient: Tensor, rate: float, number: int) -> None:
        self.first = BETA1 * self.first + (1 - BETA1) * gradient
        self.second = BETA2 * self.second + (1 - BETA2) * gradient**2
        first, second = self.first / (1 - BETA1**number), self.second / (1 - BETA2**number)
        self.value = self.value * (1 - rate * self.decay) - rate * first / (second.sqrt() + self.epsilon)
