"""Learning rates: corner values, counting in samples, refusals. Recorded rates are in test_recorded."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspeed_dpo.algorithms.lr_and_beta_schedules import DECAY_STYLES, LearningRateSettings, beta_at, lr_at


def settings(style: str = "linear", **changes) -> LearningRateSettings:
    keys = {"lr": 1e-3, "min_lr": 1e-5, "train_iters": 10, "global_batch_size": 4, "lr_warmup_iters": 2}
    return LearningRateSettings.for_run(style=style, **{**keys, **changes})


def test_warm_up_starts_at_zero_and_reaches_the_peak() -> None:
    assert [lr_at(step, settings()) for step in range(3)] == pytest.approx([0, 5e-4, 1e-3], rel=1e-12)


def test_without_warm_up_the_first_step_uses_the_peak() -> None:
    assert lr_at(0, settings(lr_warmup_iters=0)) == 1e-3


def test_linear_and_cosine_follow_their_formulas() -> None:
    for step in range(2, 10):
        x = (step - 2) / 8
        assert lr_at(step, settings("linear")) == pytest.approx(1e-5 + (1 - x) * (1e-3 - 1e-5), rel=1e-12)
        cosine = 1e-5 + (1 + math.cos(math.pi * x)) / 2 * (1e-3 - 1e-5)
        assert lr_at(step, settings("cosine")) == pytest.approx(cosine, rel=1e-12)


def test_constant_stays_at_the_peak_for_ever() -> None:
    assert {lr_at(step, settings("constant")) for step in (2, 9, 10, 1000)} == {1e-3}


@pytest.mark.parametrize("style", ["linear", "cosine"])
@given(iters=st.integers(1, 500), batch=st.integers(1, 4096), steps=st.integers(1, 7))
def test_the_floor_is_reached_exactly_at_the_last_iteration(style: str, iters: int, batch: int, steps: int) -> None:
    run = settings(
        style, train_iters=iters, global_batch_size=batch, steps_per_iteration=steps, lr_warmup_iters=0, min_lr=1e-5
    )
    assert lr_at(iters * steps, run) == 1e-5 == lr_at(iters * steps + 3, run)
    assert lr_at(iters * steps - 1, run) > 1e-5


@given(st.integers(0, 300), st.integers(1, 5))
def test_steps_of_an_iteration_share_its_samples(iteration: int, steps: int) -> None:
    one, several = settings(train_iters=300), settings(train_iters=300, steps_per_iteration=steps)
    assert lr_at(iteration, one) == lr_at(iteration * steps, several)


def test_batch_size_does_not_move_the_schedule_of_iterations() -> None:
    small, large = settings(global_batch_size=1), settings(global_batch_size=64)
    assert [lr_at(step, small) for step in range(11)] == [lr_at(step, large) for step in range(11)]


def test_warm_up_as_a_fraction_is_a_share_of_the_decay_length() -> None:
    by_fraction = settings(lr_warmup_iters=0, lr_warmup_fraction=0.1, lr_decay_iters=20)
    assert by_fraction == settings(lr_warmup_iters=2, lr_decay_iters=20)


def test_a_fraction_may_end_warm_up_between_two_steps() -> None:
    run = settings(lr_warmup_iters=0, lr_warmup_fraction=0.15)
    assert lr_at(1, run) == pytest.approx(1e-3 / 1.5) and lr_at(2, run) < 1e-3


def test_decay_may_end_before_the_run() -> None:
    assert lr_at(5, settings(lr_decay_iters=5)) == 1e-5 == lr_at(9, settings(lr_decay_iters=5))


@pytest.mark.parametrize("style", DECAY_STYLES)
def test_the_rate_stays_between_floor_and_peak_after_warm_up(style: str) -> None:
    assert all(1e-5 <= lr_at(step, settings(style)) <= 1e-3 for step in range(2, 12))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"style": "cosin"}, "did you mean cosine"),
        ({"lr": -1.0}, "lr=-1.0"),
        ({"min_lr": 1.0}, "min_lr"),
        ({"lr_warmup_iters": 10}, "warm-up"),
        ({"lr_warmup_fraction": 0.1}, "give one of them"),
        ({"train_iters": 0}, "lr_decay_iters"),
    ],
)
def test_impossible_settings_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**changes)


@pytest.mark.parametrize(
    ("style", "halfway"), [("constant", 0.5), ("linear", 0.3), ("cosine", 0.3)], ids=["constant", "linear", "cosine"]
)
def test_beta_goes_from_its_start_to_its_end(style: str, halfway: float) -> None:
    actual = [beta_at(step, 5, start=0.5, end=0.1, style=style) for step in range(5)]
    assert actual[0] == 0.5 and actual[2] == pytest.approx(halfway)
    assert actual[-1] == pytest.approx(0.5 if style == "constant" else 0.1)


def test_beta_without_an_end_stays() -> None:
    assert {beta_at(step, 3, start=0.2, end=None, style="linear") for step in range(3)} == {0.2}


def test_a_run_of_one_step_has_the_first_beta() -> None:
    assert beta_at(0, 1, start=0.5, end=0.1, style="linear") == 0.5
