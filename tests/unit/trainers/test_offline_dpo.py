"""The offline trainer with fake roles: order of calls, saves, evaluations, amounts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspeed_dpo.data.datasets.sampler import PairSampler
from mindspeed_dpo.trainers.loop import LoopSchedule
from mindspeed_dpo.trainers.nan_check import DivergenceError
from tests.unit.trainers.fakes import BATCH, EVAL_ROWS, ROW_TOKENS, TRAIN_ROWS, FakeRoles, trainer


def rows_of_step(step: int) -> list[int]:
    return TRAIN_ROWS[PairSampler(len(TRAIN_ROWS), BATCH, seed=5).rows(step)].tolist()


def test_a_run_looks_up_learns_measures_logs_and_saves_in_this_order() -> None:
    roles = FakeRoles()
    assert trainer(roles, LoopSchedule(0, 2, save_interval=2, eval_interval=1)).fit() == 2
    first, second, held_out = rows_of_step(0), rows_of_step(1), EVAL_ROWS.tolist()
    assert roles.calls == [
        ("ref", first), ("update", 0, first), ("ref", held_out), ("evaluate", held_out), ("log", 1),
        ("ref", second), ("update", 1, second), ("evaluate", held_out), ("log", 2), ("save", 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("schedule", "saves"),
    [
        (LoopSchedule(0, 5, save_interval=2), [2, 4, 5]),
        (LoopSchedule(0, 4, save_interval=2), [2, 4]),
        (LoopSchedule(0, 3), [3]),
        (LoopSchedule(3, 7, save_interval=3), [6, 7]),
        (LoopSchedule(5, 5, save_interval=5), []),
    ],
    ids=["between intervals", "at an interval", "only at the end", "going on", "nothing to do"],
)
def test_every_interval_and_the_end_are_saved_once(schedule: LoopSchedule, saves: list[int]) -> None:
    roles = FakeRoles()
    assert trainer(roles, schedule).fit() == schedule.last_step
    assert roles.done("save") == saves
    assert roles.done("update") == list(range(schedule.first_step, schedule.last_step))


@pytest.mark.parametrize(
    ("interval", "steps"),
    [(2, [2, 4, 5]), (5, [5]), (9, [5]), (None, [])],
    ids=["interval", "end", "longer than the run", "never"],
)
def test_evaluation_comes_at_its_interval_and_at_the_end(interval: int | None, steps: list[int]) -> None:
    roles = FakeRoles()
    trainer(roles, LoopSchedule(0, 5, eval_interval=interval)).fit()
    assert [step for step, metrics in roles.logged.items() if "eval/loss" in metrics] == steps
    assert len(roles.done("evaluate")) == len(steps)


def test_without_held_out_rows_nothing_is_evaluated() -> None:
    roles = FakeRoles()
    trainer(roles, LoopSchedule(0, 3, eval_interval=1), eval_rows=np.array([], np.int64)).fit()
    assert roles.done("evaluate") == []


def test_an_interval_of_zero_means_never() -> None:
    roles = FakeRoles()
    trainer(roles, LoopSchedule(0, 3, save_interval=0)).fit()
    assert roles.done("save") == [3]


@given(first=st.integers(0, 7), batch=st.integers(1, 12), shuffle=st.booleans())
def test_amounts_are_those_of_all_steps_so_far_across_epochs(first: int, batch: int, shuffle: bool) -> None:
    roles = FakeRoles()
    loop_run = trainer(roles, LoopSchedule(first, first + 4), global_batch_size=batch, shuffle=shuffle)
    loop_run.fit()
    tokens = [int(ROW_TOKENS[TRAIN_ROWS[loop_run.sampler.rows(step)]].sum()) for step in range(first + 4)]
    for done in range(first + 1, first + 5):
        logged = roles.logged[done]
        assert logged["num_tokens"] == sum(tokens[:done])
        assert logged["consumed_samples"] == done * batch
        assert logged["epoch"] == done * batch / len(TRAIN_ROWS)
        assert logged["tokens_per_s"] * logged["timing/all"] == pytest.approx(tokens[done - 1])
        assert logged["pairs_per_s"] * logged["timing/all"] == pytest.approx(batch)


def test_metrics_of_the_actor_are_logged_with_the_seconds_of_every_phase() -> None:
    roles = FakeRoles()
    trainer(roles, LoopSchedule(0, 1, save_interval=1, eval_interval=1)).fit()
    logged = roles.logged[1]
    assert (logged["loss"], logged["eval/loss"]) == (0.5, 0.25)
    phases = {"timing/ref", "timing/update_actor", "timing/eval", "timing/all"}
    assert {name for name in logged if name.startswith("timing/")} == phases
    assert logged["timing/all"] == pytest.approx(logged["timing/ref"] + logged["timing/update_actor"])


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("save_interval", "saves"), [(None, [5]), (5, [5]), (2, [4, 5])])
def test_a_run_that_diverges_keeps_the_weights_before_that_step(
    name: str, value: float, save_interval: int | None, saves: list[int]
) -> None:
    roles = FakeRoles()
    roles.during_update = lambda step: roles.metrics.update({name: value} if step == 5 else {})
    with pytest.raises(
        DivergenceError, match=rf"step 6: {name} is {value}; .* the newest checkpoint is that of step 5"
    ):
        trainer(roles, LoopSchedule(3, 9, save_interval=save_interval)).fit()
    assert roles.done("save") == saves and list(roles.logged) == [4, 5]


def test_a_run_that_diverges_at_once_saves_nothing() -> None:
    roles = FakeRoles(metrics={"loss": math.nan, "grad_norm": math.nan})
    with pytest.raises(DivergenceError, match="step 4: loss is nan and grad_norm is nan"):
        trainer(roles, LoopSchedule(3, 9, save_interval=1)).fit()
    assert roles.done("save") == [] and roles.logged == {}
