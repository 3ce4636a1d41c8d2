"""Rows of steps: every column that the width allows, evaluations below their step, no line wider than the terminal."""

from __future__ import annotations

import pytest

from mindspeed_dpo.observability.step_rows import HEADING_INTERVAL, OFFLINE_COLUMNS, ONLINE_COLUMNS, StepRows

OFFLINE = {
    "loss": 0.6931, "rewards/margins": 0.0792, "rewards/accuracies": 0.75, "learning_rate": 5e-7,
    "pairs_per_s": 72.33, "grad_norm": 2.5, "tokens_per_s": 8000.0,
}  # fmt: skip
ONLINE = {
    "loss": 0.6931, "objective/scores": -0.25, "objective/kl": 1.5, "response_length/mean": 412.25,
    "learning_rate": 5e-7, "pairs_per_s": 0.5,
}  # fmt: skip


def test_80_columns_have_all_that_a_step_needs() -> None:
    heading, row = StepRows(600, OFFLINE_COLUMNS).rows_of(12, OFFLINE, 3661.0, 80)
    assert heading.split() == ["step", "loss", "margin", "accuracy", "lr", "pairs/s", "eta", "norm"]
    assert row.split() == ["12/600", "0.6931", "0.0792", "0.750", "5.00e-07", "72.3", "1:01:01", "2.500"]


def test_an_online_row_has_score_divergence_and_length() -> None:
    heading, row = StepRows(600, ONLINE_COLUMNS).rows_of(1, {**ONLINE, "win_rate": 0.5}, 60.0, 80)
    assert heading.split() == ["step", "loss", "score", "KL", "length", "win", "lr", "pairs/s", "eta"]
    assert row.split() == ["1/600", "0.6931", "-0.2500", "1.5000", "412.2", "0.500", "5.00e-07", "0.5", "0:01:00"]


def test_evaluations_have_rows_of_their_own() -> None:
    metrics = {**OFFLINE, "eval/chat/loss": 0.5, "eval/chat/rewards/margins": 1.25, "eval/code/loss": 0.25}
    rows = StepRows(60, OFFLINE_COLUMNS).rows_of(20, metrics, 1.0, 80)
    assert [row.split() for row in rows[2:]] == [["eval", "chat", "0.5000", "1.2500"], ["eval", "code", "0.2500"]]
    (only,) = StepRows(60, ONLINE_COLUMNS).rows_of(0, {"eval/reward/score/mean": 2.0, "eval/win_rate": 0.75}, 1.0, 80)[
        1:
    ]
    assert only.split() == ["eval", "2.0000", "0.750"]


@pytest.mark.parametrize("width", [200, 100, 80, 60, 40, 20])
@pytest.mark.parametrize("columns", [OFFLINE_COLUMNS, ONLINE_COLUMNS])
def test_no_row_is_wider_than_the_terminal(width: int, columns: tuple) -> None:  # type: ignore[type-arg]
    huge = dict.fromkeys([*OFFLINE, *ONLINE, "eval/a_set_with_a_long_name/loss"], -123456789.123456789)
    for row in StepRows(100000, columns).rows_of(99999, huge, 1e7, width):
        assert len(row) <= max(width, 13)


def test_narrow_terminals_keep_loss_and_margin() -> None:
    heading, _ = StepRows(60, OFFLINE_COLUMNS).rows_of(1, OFFLINE, 1.0, 30)
    assert heading.split() == ["step", "loss", "margin"]


def test_the_heading_returns_after_some_rows_and_when_the_width_changes() -> None:
    rows = StepRows(600, OFFLINE_COLUMNS)
    headed = [step for step in range(1, 2 * HEADING_INTERVAL + 1) if len(rows.rows_of(step, OFFLINE, 1.0, 80)) == 2]
    assert headed == [1, HEADING_INTERVAL + 1]
    assert len(rows.rows_of(50, OFFLINE, 1.0, 90)) == 2


def test_a_value_that_is_not_finite_is_shown() -> None:
    _, row = StepRows(60, OFFLINE_COLUMNS).rows_of(1, {"loss": float("nan"), "rewards/margins": float("inf")}, 1.0, 80)
    assert row.split()[1:3] == ["nan", "inf"]
