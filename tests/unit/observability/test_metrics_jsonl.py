"""metrics.jsonl: full precision, at once on disk, exact continuation."""

from __future__ import annotations

import json
import math
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspeed_dpo.observability.metrics_jsonl import MetricsFile
from tests.support.metrics import read_metrics


@given(st.floats(allow_nan=False))
def test_a_float_comes_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, number: float) -> None:
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    with closing(MetricsFile(path)) as file:
        file.log(1, {"loss": number})
    assert read_metrics(path) == [{"step": 1, "loss": number}]


def test_every_line_is_strict_json_on_disk_before_the_next_step(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.jsonl"
    with closing(MetricsFile(path, clock=lambda: 1790000000.1234)) as file:
        file.log(1, {"loss": math.nan, "grad_norm": -math.inf, "rewards/accuracies": 0.0})
        line = path.read_text()
    assert line.endswith("\n")
    strict = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert strict == {
        "step": 1,
        "time": 1790000000.123,
        "loss": "NaN",
        "grad_norm": "-Infinity",
        "rewards/accuracies": 0.0,
    }
    assert math.isnan(read_metrics(path)[0]["loss"])


def test_resuming_drops_the_steps_that_are_done_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with closing(MetricsFile(path, clock=lambda: 5.0)) as file:
        for step in range(1, 6):
            file.log(step, {"loss": 0.1 * step, "grad_norm": math.inf, "num_tokens": 7})
    before = path.read_text().splitlines()
    with closing(MetricsFile(path, completed_steps=3, clock=lambda: 5.0)) as file:
        assert path.read_text().splitlines() == before[:3]
        file.log(4, {"loss": 0.1 * 4, "grad_norm": math.inf, "num_tokens": 7})
    assert path.read_text().splitlines() == before[:4]
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_line_cut_by_a_kill_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    with closing(MetricsFile(path, completed_steps=2)) as file:
        file.log(2, {"loss": 0.25})
    assert read_metrics(path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]


def test_a_new_run_starts_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 0.5}\n')
    MetricsFile(path).close()
    assert path.read_text() == ""


@pytest.mark.parametrize("line", ["[1, 2]", '{"loss": 1}', "not json", '{"step": 1, "loss": "x"}'])
def test_a_foreign_line_is_named_and_the_file_left_alone(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    content = f'{{"step": 1, "loss": 0.5}}\n{line}\n{{"step": 3, "loss": 0.5}}\n'
    path.write_text(content)
    with pytest.raises(ValueError, match="line 2"):
        MetricsFile(path, completed_steps=3)
    assert path.read_text() == content


def test_an_unknown_metric_is_refused(tmp_path: Path) -> None:
    with closing(MetricsFile(tmp_path / "metrics.jsonl")) as file, pytest.raises(ValueError, match="not in the table"):
        file.log(1, {"lose": 1.0})
