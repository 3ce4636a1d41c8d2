"""The progress line: its form, order and time left; the bar only on a terminal."""

from __future__ import annotations

import io
import logging
import re

import pytest
from rich.console import Console

from mindspeed_dpo.observability.progress import ProgressLine, format_line


def quiet_console() -> Console:
    return Console(file=io.StringIO(), force_terminal=False)


def test_the_line_has_the_form_users_scrape() -> None:
    metrics = {"timing/all": 9.8, "loss": 0.69314718, "rewards/accuracies": 0.0, "timing/gen": 0.0}
    assert format_line(1, 1000, metrics) == (
        "iteration: 1 / 1000 | loss : 0.6931 | rewards/accuracies : 0.0000 | timing/gen : 0.0000 | timing/all : 9.8000"
    )


def test_legacy_keys_keep_the_name_that_scripts_search_for() -> None:
    line = format_line(1, 2, {"loss": 0.6931, "learning_rate": 1e-7, "eval/loss": 0.5}, legacy_keys=True)
    assert re.findall(r"actor/pg_loss : ([0-9.]+)", line) == ["0.6931"]
    assert "| learning rate : 1.000E-07" in line and "| eval/loss : 0.5000" in line


def test_small_rates_and_large_counts_stay_readable() -> None:
    line = format_line(1, 2, {"learning_rate": 5e-8, "num_tokens": 123456.0})
    assert "learning_rate : 5.000E-08" in line and "num_tokens : 123456" in line


def test_the_time_left_is_the_mean_duration_times_the_steps_left(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    progress = ProgressLine(10, completed_steps=4, console=quiet_console(), clock=lambda: now)
    now = 130.0
    with caplog.at_level(logging.INFO):
        progress.log(6, {"loss": 1.0})
    assert "iteration: 6 / 10" in caplog.text and caplog.messages[0].endswith("eta : 0:01:00")


def test_the_interval_skips_lines_but_not_the_first_and_last(caplog: pytest.LogCaptureFixture) -> None:
    progress = ProgressLine(7, interval=3, console=quiet_console())
    with caplog.at_level(logging.INFO):
        for step in range(1, 8):
            progress.log(step, {"loss": 1.0})
    assert [re.findall(r"iteration: (\d+)", line)[0] for line in caplog.messages] == ["1", "3", "6", "7"]


def test_the_line_shows_headlines_only(caplog: pytest.LogCaptureFixture) -> None:
    metrics = {"loss": 1.0, "entropy": 5.0, "eval/rewards/margins": 0.0, "timing/all": 2.0}
    with caplog.at_level(logging.INFO):
        ProgressLine(2, console=quiet_console()).log(1, metrics)
    (headlines,) = caplog.messages
    assert "entropy" not in headlines
    assert "loss : 1.0000 | eval/rewards/margins : 0.0000 | timing/all : 2.0000" in headlines


def test_the_bar_appears_on_a_terminal_only() -> None:
    for is_terminal in (True, False):
        screen = io.StringIO()
        progress = ProgressLine(2, console=Console(file=screen, force_terminal=is_terminal))
        progress.log(1, {"loss": 1.0})
        progress.close()
        progress.close()
        assert "1/2" in screen.getvalue() if is_terminal else screen.getvalue() == ""


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="not in the table"):
        format_line(1, 2, {"lose": 1.0})
