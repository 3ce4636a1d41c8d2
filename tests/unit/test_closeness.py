"""The comparisons of routes: what they let pass and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.support.closeness import (
    MARGIN,
    ROUNDING,
    Bound,
    assert_same_run,
    assert_same_tensors,
    assert_same_update,
)

BOUND = Bound(first=1e-6, later=1e-5, update=1e-5)
FIRST, LATER = MARGIN * BOUND.first, MARGIN * BOUND.later
STEPS = [{"step": 1, "loss": 0.5, "grad_norm": 0.01, "logps/chosen": -40.0}] * 2


@pytest.mark.parametrize(
    ("step", "name", "difference"),
    [
        (0, "loss", FIRST),
        (1, "loss", LATER),
        (0, "grad_norm", 0.01 * FIRST),
        (1, "grad_norm", 0.01 * LATER),
        (0, "logps/chosen", 40 * FIRST),
    ],
)
def test_a_metric_may_differ_by_its_bound_on_its_own_scale(step: int, name: str, difference: float) -> None:
    for share, passes in ((0.9, True), (1.1, False)):
        actual = [dict(record) for record in STEPS]
        actual[step][name] += share * difference
        if passes:
            assert_same_run(actual, STEPS, BOUND)
        else:
            with pytest.raises(AssertionError, match=name):
                assert_same_run(actual, STEPS, BOUND)
        assert_same_run(actual, STEPS, BOUND, but={name})


def test_a_value_that_is_not_a_number_differs() -> None:
    with pytest.raises(AssertionError, match="loss"):
        assert_same_run([{"loss": float("nan")}], [{"loss": 0.5}], BOUND)


def test_counts_are_equal_exactly_and_what_the_clock_measures_is_not_compared() -> None:
    with pytest.raises(AssertionError):
        assert_same_run([{"num_tokens": 1e6 + 1}], [{"num_tokens": 1e6}], Bound(1.0, 1.0, 1.0))
    assert_same_run([{"timing/all": 1.0, "tokens_per_s": 3.0}], [{"timing/all": 2.0, "tokens_per_s": 1.0}], BOUND)


def test_runs_of_different_lengths_differ() -> None:
    with pytest.raises(ValueError, match=r"(shorter|longer) than"):
        assert_same_run(STEPS[:1], STEPS, BOUND)


def test_updates_are_compared_as_one_vector() -> None:
    before, after = [torch.ones(3), torch.zeros(2, 2)], [torch.tensor([2.0, 1.0, 1.0]), torch.zeros(2, 2)]
    for share, passes in ((0.9, True), (1.1, False)):
        actual = [after[0], after[1] + share * MARGIN * BOUND.update / 2]
        if passes:
            assert_same_update(before, actual, after, BOUND)
        else:
            with pytest.raises(AssertionError, match="update"):
                assert_same_update(before, actual, after, BOUND)
    with pytest.raises(AssertionError, match="nothing was learned"):
        assert_same_update(before, before, before, BOUND)


def test_tensors_are_compared_by_their_own_norms() -> None:
    expected = {"large": torch.full((4,), 100.0), "small": torch.full((4,), 1e-6), "zero": torch.zeros(4)}
    assert_same_tensors({name: tensor * (1 + 0.9 * ROUNDING) for name, tensor in expected.items()}, expected)
    for name in expected:
        off = {**expected, name: expected[name] + 1.2 * ROUNDING * expected[name].abs().max().clamp(min=1e-30)}
        with pytest.raises(AssertionError, match=name):
            assert_same_tensors(off, expected)
    with pytest.raises(AssertionError):
        assert_same_tensors({"large": expected["large"]}, expected)


def test_what_a_comparison_used_of_its_bound_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOSENESS_LOG", str(tmp_path / "log"))
    assert_same_run([{"loss": 0.5 + FIRST / 2}], [{"loss": 0.5}], BOUND)
    (line,) = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert line["share"] == pytest.approx(0.5, rel=1e-6) and line["test"].startswith("tests/unit/test_closeness.py::")
