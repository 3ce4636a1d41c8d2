"""Charts of values that are almost equal."""

from __future__ import annotations

import pytest

from mindspeed_dpo.report.drawing import Series, draw_histograms, draw_lines
from mindspeed_dpo.report.histograms import Histogram


@pytest.mark.parametrize("value", [0.6931471805599453, -3.3, 1e-7, 1e6, 1e29, 1e300])
@pytest.mark.parametrize("share", [0.0, 1e-16, 3e-16, 1e-12, 1e-7, 2e-6, 1e-3])
def test_values_that_differ_by_roundings_are_drawn(value: float, share: float) -> None:
    values = [value, value * (1 + share), value]
    assert draw_lines("loss", [Series("train", 0, points=list(enumerate(values)))]).count("<circle") == 3
    assert draw_histograms("margins", [Series("eval", 0, histogram=Histogram.of(values))]).startswith("<svg")


@pytest.mark.parametrize("values", [[1e-320, 2e-320], [0.0, 1e-31], [-1e300, 1e300], [5e-30, 1e30], [0.0, 0.0]])
def test_the_smallest_and_the_largest_numbers_are_drawn(values: list[float]) -> None:
    assert draw_lines("loss", [Series("train", 0, points=list(enumerate(values)))]).count("<circle") == 2


def test_bins_without_room_are_left_out() -> None:
    histogram = Histogram(start=1e9, width=1e-9, counts=[3, 5])
    assert draw_histograms("margins", [Series("eval", 0, histogram=histogram)]).startswith("<svg")
