"""Curves, histograms, groups of charts: what is thinned, counted and sorted."""

from __future__ import annotations

import math
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspeed_dpo.observability.chart_groups import GROUPS, base_name, charts_of
from mindspeed_dpo.observability.metric_names import METRICS
from mindspeed_dpo.report.drawing import integer_ticks, short_number
from mindspeed_dpo.report.histograms import NUM_BINS, Histogram
from mindspeed_dpo.report.metric_curves import Curve

NUMBERS = st.floats(-1e6, 1e6)


@given(st.lists(NUMBERS, min_size=1, max_size=700), st.integers(4, 240))
def test_thinning_keeps_both_ends_and_both_extremes(values: list[float], most: int) -> None:
    points = Curve(array("q", range(len(values))), array("d", values)).points(most)
    assert len(points) <= most and points == sorted(set(points))
    assert points[0] == (0, values[0]) and points[-1] == (len(values) - 1, values[-1])
    assert all(values[step] == value for step, value in points)
    shown = [value for _, value in points]
    assert (min(shown), max(shown)) == (min(values), max(values))


@given(st.lists(NUMBERS, min_size=1, max_size=200))
def test_a_histogram_counts_every_value_in_its_bin(values: list[float]) -> None:
    histogram = Histogram.of(values)
    assert sum(histogram.counts) == len(values) and len(histogram.counts) <= NUM_BINS + 2
    last = len(histogram.counts) - 1
    for number, (count, low, high) in enumerate(histogram.bars):
        slack = 1e-9 * max(abs(low), abs(high), 1)
        inside = sum(low - slack <= value < high + slack or (number == last and value >= low) for value in values)
        assert count <= inside


def test_weights_and_bounds_of_a_histogram() -> None:
    histogram = Histogram.of([3.0, 4.0], 0.0, 10.0, weights=[5, 7], smallest_width=1)
    assert (histogram.start, histogram.width) == (0.0, 1.0) and len(histogram.counts) == 11
    assert histogram.counts[3:5] == [5, 7] and sum(histogram.counts) == 12


def test_names_are_split_into_set_and_metric() -> None:
    assert base_name("loss") == ("", "loss") and base_name("loss/sft") == ("", "loss/sft")
    assert base_name("eval/rewards/margins") == ("eval", "rewards/margins")
    assert base_name("eval/chat/rewards/margins") == ("eval chat", "rewards/margins")
    assert base_name("eval/loss/sft") == ("eval", "loss/sft")
    assert base_name("eval/chat/loss/sft") == ("eval chat", "loss/sft")


def test_charts_name_metrics_of_the_table_once() -> None:
    names = [name for charts in GROUPS.values() for chart in charts for name in chart.metrics]
    assert len(set(names)) == len(names) and set(names) <= set(METRICS)


def test_every_metric_of_the_table_is_in_one_chart() -> None:
    shown = [name for _, charts in charts_of(list(METRICS)) for chart in charts for name in chart.metrics]
    assert sorted(shown) == sorted(METRICS)


@pytest.mark.parametrize(
    ("first", "last", "ticks"),
    [(1, 3, [1, 2, 3]), (0, 60, [0, 20, 40, 60]), (7, 7, [7]), (95, 103, [96, 98, 100, 102])],
)
def test_ticks_are_round_steps(first: int, last: int, ticks: list[int]) -> None:
    assert integer_ticks(first, last) == ticks


def test_numbers_are_short() -> None:
    assert [short_number(value) for value in (0.693147, 12.0, 3210.0, 4.5e8, 1.5e-6, -0.25)] == [
        "0.6931", "12", "3.21k", "450M", "1.5e-06", "-0.25",
    ]  # fmt: skip
    assert short_number(math.nan) == "nan"
