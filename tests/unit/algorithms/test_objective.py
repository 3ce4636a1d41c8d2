"""The objective: weights of padding pairs, additivity over micro-batches, metrics, refused settings."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mindspeed_dpo.algorithms.beta_dpo import MarginStatistics, beta_dpo_step
from mindspeed_dpo.algorithms.cross_pair_values import StepValues
from mindspeed_dpo.algorithms.losses.pair_terms import PairTerms
from mindspeed_dpo.algorithms.objective import PAIR_LOSSES, PairLosses, PairValues, PreferenceObjective
from mindspeed_dpo.config.settings.loss import (
    F_DIVERGENCE_LOSSES,
    LIKELIHOOD_LOSSES,
    LOSSES,
    LOSSES_USING,
    MARGIN_LOSSES,
    REFERENCE_FREE_LOSSES,
    REWARD_AWARE_LOSSES,
    LossConfig,
)

pytestmark = pytest.mark.numerics

LENGTHS = torch.tensor([[4, 2], [3, 9], [5, 5], [1, 2], [6, 7]])


def objective(*losses: str, beta: float = 0.1, **settings: Any) -> PreferenceObjective:
    """An objective by the names of its losses; `ipo` divides by lengths unless set otherwise."""
    settings = {"ipo_normalize": True, **settings}
    return PreferenceObjective(LossConfig(dpo_loss_type=losses or ("sigmoid",), **settings), beta)


def measure(using: PreferenceObjective, *values: Tensor | None, **more: Any) -> PairLosses:
    return using(PairValues(*values, **more))  # type: ignore[arg-type]


OBJECTIVES = [
    objective(),
    objective(beta=0.4, dpo_label_smoothing=0.1, pref_ftx=0.5),
    objective("hinge"),
    objective("ipo", pref_ftx=1.0),
    objective("sigmoid", "bco_pair", loss_weights=(0.8, 0.2)),
    objective("sigmoid", f_divergence_type="js_divergence"),
    objective("simpo", beta=2.0),
]


def some_logps(seed: int) -> Tensor:
    return -20 + 5 * torch.randn(5, 2, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("using", OBJECTIVES, ids=str)
def test_splitting_a_step_changes_nothing(using: PreferenceObjective) -> None:
    logps, ref = some_logps(1), some_logps(2)
    complete = measure(using, logps, LENGTHS, ref)
    parts = [measure(using, logps[s], LENGTHS[s], ref[s]) for s in (slice(0, 2), slice(2, 5))]
    parts[0].sums.merge(parts[1].sums)
    assert torch.equal(torch.cat([part.losses for part in parts]), complete.losses)
    assert parts[0].sums.means() == pytest.approx(complete.sums.means(), rel=1e-6)


@pytest.mark.parametrize("using", OBJECTIVES, ids=str)
def test_padding_pairs_count_nowhere_even_when_not_finite(using: PreferenceObjective) -> None:
    logps, ref = some_logps(1), some_logps(2)
    real = measure(using, logps[:3], LENGTHS[:3], ref[:3])
    padded = logps.clone()
    padded[3], padded[4] = float("nan"), float("-inf")
    padded.requires_grad_()
    lengths = LENGTHS.clone()
    lengths[3:] = 0
    result = measure(using, padded, lengths, ref, torch.tensor([1.0, 1, 1, 0, 0]))
    result.losses.sum().backward()
    assert torch.equal(result.losses[:3], real.losses) and torch.equal(result.losses[3:], torch.zeros(2))
    assert result.sums.means() == pytest.approx(real.sums.means())
    assert padded.grad is not None
    assert torch.equal(padded.grad[3:], torch.zeros(2, 2)) and (padded.grad[:3] != 0).any()


def test_all_pairs_are_padding_on_a_rank_without_work() -> None:
    result = measure(objective(), some_logps(1), LENGTHS, some_logps(2), torch.zeros(5))
    assert result.sums.means() == {} and result.losses.sum() == 0


def test_metrics_equal_their_definitions() -> None:
    logps = torch.tensor([[-10.0, -20.0], [-8.0, -6.0], [-5.0, -5.0]])
    ref = torch.tensor([[-12.0, -19.0], [-8.0, -7.0], [-5.0, -5.0]])
    result = measure(objective(beta=0.5), logps, LENGTHS[:3], ref)
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
    means = measure(objective(beta=0.37, dpo_label_smoothing=0.2), logps, LENGTHS, logps).sums.means()
    assert means["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert [means[f"rewards/{name}"] for name in ("chosen", "rejected", "margins", "accuracies")] == [0, 0, 0, 0]


def test_pref_ftx_adds_the_mean_negative_log_probability_of_the_chosen_response() -> None:
    logps, ref = some_logps(1), some_logps(2)
    plain = measure(objective("ipo"), logps, LENGTHS, ref)
    added = measure(objective("ipo", pref_ftx=0.25), logps, LENGTHS, ref)
    nll = -logps[:, 0] / LENGTHS[:, 0]
    assert torch.allclose(added.losses - plain.losses, 0.25 * nll, atol=1e-4)
    means = added.sums.means()
    assert means["loss/pref_ftx"] == pytest.approx(nll.mean().item(), rel=1e-6)
    assert means["loss"] == pytest.approx(means["loss/ipo"] + 0.25 * means["loss/pref_ftx"], rel=1e-6)


CHANGES: list[tuple[PreferenceObjective, PreferenceObjective]] = [
    (objective(), objective(beta=0.2)),
    (objective(), objective(dpo_label_smoothing=0.1)),
    (objective(), objective(pref_ftx=0.1)),
    (objective(), objective("hinge")),
    (objective("sigmoid", "sft"), objective("sigmoid", "sft", loss_weights=(1.0, 2.0))),
    (objective("ipo"), objective("ipo", ipo_normalize=False)),
    (objective("discopop"), objective("discopop", discopop_tau=0.2)),
    (objective("simpo"), objective("simpo", gamma_beta_ratio=0.5)),
    (objective("cpo"), objective("cpo", cpo_alpha=0.5)),
    (objective(), objective(f_divergence_type="forward_kl")),
    (
        objective(f_divergence_type="alpha_divergence"),
        objective(f_divergence_type="alpha_divergence", f_alpha_divergence_coef=0.7),
    ),
]


@pytest.mark.parametrize(("usual", "changed"), CHANGES, ids=str)
def test_every_setting_changes_the_loss(usual: PreferenceObjective, changed: PreferenceObjective) -> None:
    values = some_logps(1), LENGTHS, some_logps(2)
    assert not torch.allclose(measure(changed, *values).losses, measure(usual, *values).losses)


def test_several_losses_are_their_weighted_sum() -> None:
    values = some_logps(1), LENGTHS, some_logps(2)
    both = measure(objective("sigmoid", "bco_pair", loss_weights=(0.8, 0.2)), *values)
    apart = [measure(objective(name), *values).losses for name in ("sigmoid", "bco_pair")]
    torch.testing.assert_close(both.losses, 0.8 * apart[0] + 0.2 * apart[1])
    means = both.sums.means()
    assert [means["loss/sigmoid"], means["loss/bco_pair"]] == pytest.approx([float(x.mean()) for x in apart])


def test_a_margin_is_taken_off_and_a_factor_multiplies() -> None:
    logps, ref = some_logps(1), some_logps(2)
    margins, factors = torch.tensor([0.0, 0.5, 1.0, -0.5, 2.0]), torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0])
    ratios = logps - ref
    z = 0.1 * (ratios[:, 0] - ratios[:, 1])
    losses = measure(objective(), logps, LENGTHS, ref, margins=margins, factors=factors).losses
    torch.testing.assert_close(losses, -torch.nn.functional.logsigmoid(z - margins) * factors)
    for name, scaled in (
        ("sigmoid", -torch.nn.functional.logsigmoid(z - 3 * margins)),
        ("rpo_sq", (z - 3 * margins) ** 2),
    ):
        losses = measure(objective(name, margin_scale=3.0), logps, LENGTHS, ref, margins=margins).losses
        torch.testing.assert_close(losses, scaled)


def test_agreement_weighs_preferences_but_not_likelihoods() -> None:
    values, wpo_weights = (some_logps(1), LENGTHS, some_logps(2)), torch.tensor([0.5, 1.0, 2.0, 0.1, 0.0])
    plain = {name: measure(objective(name), *values).losses for name in ("sigmoid", "sft")}
    weighed = measure(objective("sigmoid", "sft"), *values, wpo_weights=wpo_weights).losses
    torch.testing.assert_close(weighed, plain["sigmoid"] * wpo_weights + plain["sft"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sigmoid", lambda lp, rp, n: lp - rp),
        ("cpo", lambda lp, rp, n: lp),
        ("simpo", lambda lp, rp, n: lp / n),
        ("orpo", lambda lp, rp, n: lp / n),
    ],
)
def test_rewards_are_beta_times_what_the_loss_compares(name: str, expected: Any) -> None:
    logps, ref = some_logps(1), some_logps(2)
    means = measure(objective(name, beta=0.5), logps, LENGTHS, ref).sums.means()
    rewards = 0.5 * expected(logps, ref, LENGTHS).mean(0)
    assert [means["rewards/chosen"], means["rewards/rejected"]] == pytest.approx(rewards.tolist())


def test_beta_follows_the_batch() -> None:
    logps, ref = some_logps(1), some_logps(2)
    loss = objective(beta_dpo_alpha=0.6, beta_dpo_momentum=0.9)
    mean = 0.1 * float(((logps - ref)[:, 0] - (logps - ref)[:, 1]).mean())
    changed = beta_dpo_step(loss, StepValues(LENGTHS.float(), logps, ref), MarginStatistics(0.2), seed=(0,))
    assert changed.objective.beta == pytest.approx(0.1 * (1 + 0.6 * (mean - 0.2)))
    assert changed.statistics.mean == pytest.approx(0.9 * 0.2 + 0.1 * mean) and changed.loss_factors is None
    values = StepValues(LENGTHS.float(), logps - torch.tensor([[1e3, 0.0]]), ref)
    assert beta_dpo_step(loss, values, MarginStatistics(0.2), seed=(0,)).objective.beta == pytest.approx(0.001)


def test_the_reference_takes_no_gradient() -> None:
    ref = some_logps(2).requires_grad_()
    losses = measure(objective(), some_logps(1).requires_grad_(), LENGTHS, ref).losses
    losses.sum().backward()
    assert ref.grad is None


def test_weights_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="weights must be"):
        measure(objective(), some_logps(1), LENGTHS, some_logps(2), torch.ones(3))


class Recorder:
    """Passes attribute reads on to an object and remembers the names of the object's fields among them."""

    def __init__(self, recorded: Any) -> None:
        self._recorded = recorded
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.read.add(name)
        return getattr(self._recorded, name)


def reads(name: str) -> tuple[set[str], set[str]]:
    """The terms and the settings that a loss reads when it is called."""
    logps = some_logps(1)
    terms = Recorder(
        PairTerms(
            *(logps, logps, logps, LENGTHS, logps[:, 0]),
            beta=0.1,
            partners={"aot": logps, "aot_unpaired": logps},
            targets=logps[:, 0],
        )
    )
    settings = Recorder(LossConfig(ipo_normalize=False, dpo_label_smoothing=0.1))
    PAIR_LOSSES[name](terms, settings)  # type: ignore[arg-type]
    return terms.read, settings.read


# Settings that the objective works into a term.
TERMS_OF = {"loss_group_size": {"nll", "partners"}, "f_divergence_type": {"scores"}}


def test_the_configuration_offers_exactly_the_losses_there_are() -> None:
    assert set(LOSSES) == set(PAIR_LOSSES)


@pytest.mark.parametrize("key", sorted(set(LOSSES_USING) - {"margin_column", "margin_scale"}))
def test_the_configuration_lists_the_losses_that_read_a_setting(key: str) -> None:
    terms = TERMS_OF.get(key, set())
    assert set(LOSSES_USING[key]) == {name for name in PAIR_LOSSES if key in reads(name)[1] or terms & reads(name)[0]}


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_a_loss_reads_no_setting_but_those_the_configuration_lists_and_its_docstring_names(name: str) -> None:
    terms, settings = reads(name)
    text = PAIR_LOSSES[name].__doc__ or ""
    assert settings <= set(LOSSES_USING) and all(f"`{read}`" in text for read in settings)
    assert all(f"`{read}" in text for read in terms)


def test_losses_without_a_reference_read_none() -> None:
    reading = {name for name in PAIR_LOSSES if {"scores", "ratios", "partners"} & reads(name)[0]}
    assert set(PAIR_LOSSES) - reading == {*REFERENCE_FREE_LOSSES, *LIKELIHOOD_LOSSES}
    assert set(MARGIN_LOSSES) <= set(F_DIVERGENCE_LOSSES)
    assert set(REWARD_AWARE_LOSSES) == {name for name in PAIR_LOSSES if "targets" in reads(name)[0]}
    assert LOSSES_USING["margin_column"] == LOSSES_USING["margin_scale"] == (*MARGIN_LOSSES, *REWARD_AWARE_LOSSES)
