"""The progress line: its form, order and time left; short rows only on a terminal, complete lines elsewhere."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path

import pytest
from rich.console import Console

from mindspeed_dpo.observability.live_status import LiveStatus
from mindspeed_dpo.observability.logs import start_logging
from mindspeed_dpo.observability.progress import ProgressLine, format_line


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
    progress = ProgressLine(10, completed_steps=4, clock=lambda: now)
    now = 130.0
    with caplog.at_level(logging.INFO):
        progress.log(6, {"loss": 1.0})
    assert "iteration: 6 / 10" in caplog.text and caplog.messages[0].endswith("eta : 0:01:00")


def test_the_interval_skips_lines_but_not_the_first_and_last(caplog: pytest.LogCaptureFixture) -> None:
    progress = ProgressLine(7, interval=3)
    with caplog.at_level(logging.INFO):
        for step in range(1, 8):
            progress.log(step, {"loss": 1.0})
    assert [re.findall(r"iteration: (\d+)", line)[0] for line in caplog.messages] == ["1", "3", "6", "7"]


def test_the_line_shows_headlines_only(caplog: pytest.LogCaptureFixture) -> None:
    metrics = {"loss": 1.0, "entropy": 5.0, "eval/rewards/margins": 0.0, "timing/all": 2.0}
    with caplog.at_level(logging.INFO):
        ProgressLine(2).log(1, metrics)
    (headlines,) = caplog.messages
    assert "entropy" not in headlines
    assert "loss : 1.0000 | eval/rewards/margins : 0.0000 | timing/all : 2.0000" in headlines


def log_two_steps(console: Console, folder: Path) -> str:
    """Log two steps of a run with an evaluation and return the content of the log file."""
    status = LiveStatus()
    with start_logging(folder, "driver", console_level=logging.INFO), status.shown(console):
        progress = ProgressLine(60, status=status)
        progress.log(1, {"loss": 0.6931, "rewards/margins": 0.0, "rewards/accuracies": 0.5, "grad_norm": 2.0})
        progress.log(2, {"loss": 0.6544, "rewards/margins": 0.0792, "eval/loss": 0.6601})
        progress.close()
    return (folder / "logs" / "driver_0.log").read_text(encoding="utf-8")


def test_a_terminal_shows_one_row_a_step_and_the_log_has_the_complete_line(tmp_path: Path) -> None:
    screen = io.StringIO()
    log = log_two_steps(Console(file=screen, force_terminal=True, width=80), tmp_path)
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\r", "", screen.getvalue())
    rows = [line for line in text.splitlines() if re.match(r" +(step|eval|\d+/60) ", line)]
    assert [row.split()[:4] for row in rows] == [
        ["step", "loss", "margin", "accuracy"],
        ["1/60", "0.6931", "0.0000", "0.500"],
        ["2/60", "0.6544", "0.0792", rows[2].split()[3]],
        ["eval", "0.6601"],
    ]
    assert all(len(row) <= 80 for row in rows) and "iteration" not in text
    assert "iteration: 1 / 60 | loss : 0.6931 |" in log and "iteration: 2 / 60" in log and "margin " not in log


def test_a_pipe_gets_complete_lines_and_no_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    screen = io.StringIO()
    log_two_steps(Console(file=screen, force_terminal=False), tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert screen.getvalue() == "" and len(lines) == 2 and all("iteration: " in line for line in lines)


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="not in the table"):
        format_line(1, 2, {"lose": 1.0})
