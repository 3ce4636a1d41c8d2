"""Nash-MD's objective, advantages and choice of prompts, and the term of XPO: by hand, and under every split."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mindspeed_dpo.algorithms.nash_md import NashObjective, advantages
from mindspeed_dpo.algorithms.objective import PairLosses, PairValues, PreferenceObjective
from mindspeed_dpo.algorithms.pairing import select_first

pytestmark = pytest.mark.numerics

LENGTHS = torch.tensor([[4], [3], [5]])
NAN = float("nan")


def some(seed: int, columns: int = 1) -> Tensor:
    return torch.randn(3, columns, generator=torch.Generator().manual_seed(seed))


def measure(rows: slice = slice(None), weights: Tensor | None = None, kl_surrogate: Tensor | None = None) -> PairLosses:
    kl_surrogate = some(3) if kl_surrogate is None else kl_surrogate
    values = PairValues(
        some(1)[rows],
        LENGTHS[rows],
        some(2)[rows],
        weights,
        logp_weights=some(4)[rows],
        kl_surrogate=kl_surrogate[rows],
    )
    return NashObjective(0.3)(values)


def test_the_loss_is_the_pull_less_the_weighted_response() -> None:
    actual = measure()
    torch.testing.assert_close(actual.losses, (0.3 * some(3) - some(1) * some(4))[:, 0])
    expected = {
        "loss": actual.losses.mean(), "loss/kl": some(3).mean(), "loss/score": (some(1) * some(4)).mean(),
    }  # fmt: skip
    assert actual.sums.means() == pytest.approx({name: value.item() for name, value in expected.items()})


def test_splitting_a_step_changes_nothing_and_padding_counts_nowhere() -> None:
    complete, parts = measure(), [measure(slice(0, 1)), measure(slice(1, 3))]
    assert torch.equal(torch.cat([part.losses for part in parts]), complete.losses)
    broken = some(3)
    broken[2] = NAN
    padded, real = measure(weights=torch.tensor([1.0, 1, 0]), kl_surrogate=broken), measure(slice(0, 2))
    assert torch.equal(padded.losses, torch.cat([real.losses, torch.zeros(1)]))
    assert padded.sums.means() == pytest.approx(real.sums.means())


def test_an_advantage_is_the_chance_to_win_less_one_half() -> None:
    scores = np.array([[1.0, 1.0], [2.0, -1.0], [-1.0, 2.0], [500.0, -500.0]], np.float32)
    expected = torch.sigmoid(torch.tensor(scores[:, 0] - scores[:, 1], dtype=torch.float64)) - 0.5
    np.testing.assert_allclose(advantages(scores), expected, rtol=1e-6)
    assert advantages(scores)[0] == 0 and advantages(scores)[1] == -advantages(scores)[2]


def test_every_scored_prompt_is_chosen_in_the_order_of_its_responses() -> None:
    scores = np.array([[1, 2], [NAN, 1], [3, 3], [0, NAN], [5, 1]], np.float32)
    selection = select_first(scores)
    assert selection.prompts.tolist() == [0, 2, 4] and selection.responses.tolist() == [[0, 1]] * 3
    assert selection.candidates == 5 and selection.left_out == {"failed": 2, "identical": 0, "tie": 0, "margin": 0}
    assert selection.of(scores).tolist() == [[1, 2], [3, 3], [5, 1]]


@pytest.mark.parametrize("alpha", [0.0, 1e-5, 0.5])
def test_xpo_adds_the_references_response_to_the_loss_of_the_pair(alpha: float) -> None:
    logps, ref, mark = some(5, 2).requires_grad_(), some(6, 2), torch.tensor([[0.0, 1], [1, 0], [1, 0]])
    lengths = LENGTHS.expand(3, 2)
    plain = PreferenceObjective(beta=0.2)(PairValues(logps, lengths, ref))
    actual = PreferenceObjective(beta=0.2, xpo_alpha=alpha)(PairValues(logps, lengths, ref, logp_weights=mark))
    bonus = torch.stack([logps[0, 1], logps[1, 0], logps[2, 0]])
    torch.testing.assert_close(actual.losses, plain.losses + alpha * bonus)
    difference = torch.autograd.grad((actual.losses - plain.losses).sum(), logps)[0]
    torch.testing.assert_close(difference, alpha * mark, rtol=1e-5, atol=1e-7)
    means = actual.sums.means()
    assert means["loss/xpo"] == pytest.approx(bonus.mean().item())
    assert means["loss/sigmoid"] == pytest.approx(plain.losses.mean().item())
