"""Output of the user's functions: lines are logged up to a number of bytes per interval, and the rest is counted."""

from __future__ import annotations

from mindspeed_dpo.workers.rewards.sandbox_output_log import OutputBudget


def test_lines_beyond_the_budget_are_counted_until_the_next_interval() -> None:
    budget = OutputBudget(num_bytes=100, interval_s=60.0)
    taken = []
    for now_s, size in ((0.0, 60), (1.0, 40), (2.0, 1), (59.0, 7), (60.0, 5), (61.0, 5)):
        taken.append((budget.take(size, now_s), budget.is_open))
    assert taken == [(0, True), (0, True), (0, False), (0, False), (8, True), (0, True)]
