"""The objective: weights of padding pairs, additivity over micro-batches, metrics, refused settings."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mindspeed_dpo.algorithms.losses import PAIR_LOSSES
from mindspeed_dpo.algorithms.objective import PreferenceObjective
from mindspeed_dpo.config.learning import LOSSES, SMOOTHED_LOSSES

LENGTHS = torch.tensor([[4, 2], [3, 9], [5, 5], [1, 2], [6, 7]])
OBJECTIVES = [
    PreferenceObjective(),
    PreferenceObjective(beta=0.4, label_smoothing=0.1, pref_ftx=0.5),
    PreferenceObjective(loss_type="hinge"),
    PreferenceObjective(loss_type="ipo", pref_ftx=1.0),
]


def some_logps(seed: int) -> Tensor:
    return -20 + 5 * torch.randn(5, 2, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_splitting_a_step_changes_nothing(objective: PreferenceObjective) -> None:
    logps, ref = some_logps(1), some_logps(2)
    whole = objective(logps, LENGTHS, ref)
    parts = [objective(logps[s], LENGTHS[s], ref[s]) for s in (slice(0, 2), slice(2, 5))]
    parts[0].sums.merge(parts[1].sums)
    assert torch.equal(torch.cat([part.losses for part in parts]), whole.losses)
    assert parts[0].sums.means() == pytest.approx(whole.sums.means(), rel=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_padding_pairs_count_nowhere_even_when_not_finite(objective: PreferenceObjective) -> None:
    logps, ref = some_logps(1), some_logps(2)
    real = objective(logps[:3], LENGTHS[:3], ref[:3])
    padded = logps.clone()
    padded[3], padded[4] = float("nan"), float("-inf")
    padded.requires_grad_()
    lengths = LENGTHS.clone()
    lengths[3:] = 0
    result = objective(padded, lengths, ref, torch.tensor([1.0, 1, 1, 0, 0]))
    result.losses.sum().backward()
    assert torch.equal(result.losses[:3], real.losses) and torch.equal(result.losses[3:], torch.zeros(2))
    assert result.sums.means() == pytest.approx(real.sums.means())
    assert padded.grad is not None
    assert torch.equal(padded.grad[3:], torch.zeros(2, 2)) and (padded.grad[:3] != 0).any()


def test_all_pairs_are_padding_on_a_rank_without_work() -> None:
    result = PreferenceObjective()(some_logps(1), LENGTHS, some_logps(2), torch.zeros(5))
    assert result.sums.means() == {} and result.losses.sum() == 0


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_metric_names_are_those_of_a_call(objective: PreferenceObjective) -> None:
    assert objective.metric_names == objective(some_logps(1), LENGTHS, some_logps(2)).sums.names


def test_metrics_equal_their_definitions() -> None:
    logps = torch.tensor([[-10.0, -20.0], [-8.0, -6.0], [-5.0, -5.0]])
    ref = torch.tensor([[-12.0, -19.0], [-8.0, -7.0], [-5.0, -5.0]])
    result = PreferenceObjective(beta=0.5)(logps, LENGTHS[:3], ref)
    z = [1.5, -0.5, 0.0]
    assert result.sums.means() == pytest.approx(
        {
            "loss": sum(math.log1p(math.exp(-x)) for x in z) / 3,
            "rewards/chosen": (1.0 + 0 + 0) / 3,
            "rewards/rejected": (-0.5 + 0.5 + 0) / 3,
            "rewards/margins": (1.5 - 0.5 + 0) / 3,
            "rewards/accuracies": 1 / 3,  # the tie counts 0
            "logps/chosen": -23 / 3,
            "logps/rejected": -31 / 3,
        },
        rel=1e-6,
    )


def test_policy_equal_to_reference_gives_ln_2_and_exact_zeros() -> None:
    logps = some_logps(1)
    means = PreferenceObjective(beta=0.37, label_smoothing=0.2)(logps, LENGTHS, logps).sums.means()
    assert means["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert [means[f"rewards/{name}"] for name in ("chosen", "rejected", "margins", "accuracies")] == [0, 0, 0, 0]


def test_pref_ftx_adds_the_mean_negative_log_probability_of_the_chosen_response() -> None:
    logps, ref = some_logps(1), some_logps(2)
    plain = PreferenceObjective(loss_type="ipo")(logps, LENGTHS, ref)
    added = PreferenceObjective(loss_type="ipo", pref_ftx=0.25)(logps, LENGTHS, ref)
    nll = -logps[:, 0] / LENGTHS[:, 0]
    assert torch.allclose(added.losses - plain.losses, 0.25 * nll, atol=1e-4)
    means = added.sums.means()
    assert means["loss/pref_ftx"] == pytest.approx(nll.mean().item(), rel=1e-6)
    assert means["loss"] == pytest.approx(means["loss/ipo"] + 0.25 * means["loss/pref_ftx"], rel=1e-6)


def test_every_setting_changes_the_loss() -> None:
    logps, ref = some_logps(1), some_logps(2)
    default = PreferenceObjective()(logps, LENGTHS, ref).losses
    for change in ({"beta": 0.2}, {"label_smoothing": 0.1}, {"pref_ftx": 0.1}, {"loss_type": "ipo"}):
        assert not torch.allclose(PreferenceObjective(**change)(logps, LENGTHS, ref).losses, default)


def test_the_reference_takes_no_gradient() -> None:
    ref = some_logps(2).requires_grad_()
    losses = PreferenceObjective()(some_logps(1).requires_grad_(), LENGTHS, ref).losses
    losses.sum().backward()
    assert ref.grad is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "dpo_beta"),
        ({"beta": float("nan")}, "dpo_beta"),
        ({"label_smoothing": 0.5}, r"\[0, 0.5\)"),
        ({"label_smoothing": -0.1}, r"\[0, 0.5\)"),
        ({"label_smoothing": 0.1, "loss_type": "hinge"}, "no effect with dpo_loss_type=hinge.*choose sigmoid"),
        ({"label_smoothing": 0.1, "loss_type": "ipo"}, "no effect"),
        ({"pref_ftx": -1.0}, "pref_ftx"),
        ({"loss_type": "hing"}, "did you mean hinge"),
        ({"beta": -1.0, "pref_ftx": -1.0}, "dpo_beta.*pref_ftx"),
    ],
)
def test_settings_out_of_range_or_without_effect_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PreferenceObjective(**settings)


def test_weights_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="weights must be"):
        PreferenceObjective()(some_logps(1), LENGTHS, some_logps(2), torch.ones(3))


def test_the_configuration_offers_exactly_the_losses_there_are() -> None:
    assert set(LOSSES) == set(PAIR_LOSSES)
    assert set(SMOOTHED_LOSSES) == {name for name, loss in PAIR_LOSSES.items() if "label_smoothing" in loss.reads}
