"""The live status: what it says of a phase, at which age in the log, and nothing where nothing is shown."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from mindspeed_dpo.observability.live_status import FIRST_LINE_S, LINE_INTERVAL_S, LiveStatus
from mindspeed_dpo.observability.phase import Phase, status_line


class Clock:
    """A clock that a test sets."""

    now_s = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


def test_a_counted_phase_has_share_and_time_left() -> None:
    clock = Clock()
    phase = Phase("reference", clock, 320, 0, None)
    clock.now_s = 8.0
    phase.advance(80)
    assert status_line(phase) == "reference: 80/320, 25%, 0:00:08"
    # The 8 seconds before the first count belong to the start, and not to the rate.
    clock.now_s = 10.0
    phase.advance(80)
    assert status_line(phase) == "reference: 160/320, 50%, 0:00:10, eta 0:00:04"


def test_a_phase_without_a_count_expects_the_duration_of_the_last_one() -> None:
    clock = Clock()
    status = LiveStatus(clock)
    with status.phase("evaluation"):
        clock.now_s = 40.0
    with status.phase("evaluation") as phase:
        clock.now_s = 50.0
        assert status_line(phase) == "evaluation: ~25%, 0:00:10, eta ~0:00:30"
        clock.now_s = 200.0
        assert status_line(phase) == "evaluation: ~99%, 0:02:40, eta ~0:00:00"


def test_a_resumed_count_expects_nothing_of_what_was_done_before() -> None:
    clock = Clock()
    phase = Phase("training", clock, 100, 90, None)
    assert phase.eta_s is None and phase.share == 0.9
    phase.set_done(91)
    clock.now_s = 4.0
    phase.set_done(93)
    assert phase.eta_s == 14.0


@pytest.mark.parametrize("width", [120, 80, 40, 24, 10, 3])
def test_a_line_fits_the_terminal(width: int) -> None:
    clock = Clock()
    phase = Phase("writing parameters", clock, 7_000_000_000, 0, None)
    phase.advance(1_000_000_000)
    clock.now_s = 10.0
    phase.advance(2_500_000_000)
    line = status_line(phase, width)
    assert len(line) <= width
    if width == 80:
        assert line.endswith("━─────────  3,500/7,000 M  50%  0:00:10  eta 0:00:14")


def test_long_phases_have_lines_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    status = LiveStatus(clock)
    with caplog.at_level(logging.INFO), status.phase("starting Ray"):
        ages = []
        for age_s in range(70):
            clock.now_s = float(age_s)
            before = len(caplog.messages)
            status.report_due()
            ages += [age_s] if len(caplog.messages) > before else []
    assert ages == [FIRST_LINE_S, FIRST_LINE_S + LINE_INTERVAL_S, FIRST_LINE_S + 2 * LINE_INTERVAL_S]
    assert caplog.messages[0] == "starting Ray: 0:00:05" and caplog.messages[-1] == "starting Ray: done in 69.0 s"


def test_short_phases_and_those_with_lines_of_their_own_have_none(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    status = LiveStatus(clock)
    with caplog.at_level(logging.INFO):
        with status.phase("update"):
            status.report_due()
        with status.phase("training") as phase:
            phase.has_lines = False
            clock.now_s = 1000.0
            status.report_due()
    assert caplog.messages == []


def test_a_terminal_shows_the_innermost_phase_once_it_is_not_short() -> None:
    clock, screen = Clock(), io.StringIO()
    status = LiveStatus(clock)
    with status.shown(Console(file=screen, force_terminal=True, width=80)):
        assert status.width == 80
        with status.phase("training", 60), status.phase("evaluation"):
            assert shown(status) == [f"training  {'─' * 24}  0/60  0%  0:00:00"]
            clock.now_s = 2.0
            assert [line.split()[0] for line in shown(status)] == ["training", "evaluation"]
    assert status.width is None
    # The cursor is visible again and no line of the status is left.
    assert screen.getvalue().rindex("\x1b[?25h") > screen.getvalue().rindex("\x1b[?25l")


def shown(status: LiveStatus) -> list[str]:
    """Return the lines of the status as a terminal shows them."""
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as captured:
        console.print(status._lines())
    return [line.rstrip() for line in captured.get().splitlines() if line.strip()]


@pytest.mark.parametrize("options", [{"force_terminal": False}, {"force_terminal": True, "_environ": {"TERM": "dumb"}}])
def test_a_pipe_and_a_dumb_terminal_get_no_control_characters(options: dict[str, object]) -> None:
    screen, status = io.StringIO(), LiveStatus()
    with status.shown(Console(file=screen, **options)), status.phase("evaluation"):  # type: ignore[arg-type]
        assert status.width is None
    assert screen.getvalue() == ""


def test_a_block_within_another_uses_its_display() -> None:
    screen, status = io.StringIO(), LiveStatus()
    with status.shown(Console(file=screen, force_terminal=True, width=80)):
        with status.shown(Console(file=io.StringIO(), force_terminal=True, width=40)):
            assert status.width == 80
        assert status.width == 80


def test_what_fails_in_a_phase_ends_it() -> None:
    status = LiveStatus()
    with pytest.raises(ValueError, match="no"), status.shown(), status.phase("loading"):
        raise ValueError("no")
    assert shown(status) == []
