"""A polite stop: the first signal lets the step end and be saved, the second ends at once, handlers are put back."""

from __future__ import annotations

import io
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mindspeed_dpo.observability.logs import start_logging
from mindspeed_dpo.trainers.loop import LoopSchedule
from mindspeed_dpo.trainers.step_completion_on_signal import SIGNALS
from tests.unit.trainers.fakes import FakeRoles, trainer


def raising(*signals: signal.Signals, at: int) -> Callable[[int], None]:
    def during_update(step: int) -> None:
        for number in signals if step == at else ():
            signal.raise_signal(number)

    return during_update


@pytest.fixture(autouse=True)
def as_in_a_terminal() -> Iterator[None]:
    """Python's own reaction to SIGINT: pytest-xdist's workers and background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("save_interval", [None, 2], ids=["end only", "due at that step"])
def test_a_signal_lets_the_step_end_and_saves_it_once(number: signal.Signals, save_interval: int | None) -> None:
    roles = FakeRoles(during_update=raising(number, at=1))
    assert trainer(roles, LoopSchedule(0, 9, save_interval=save_interval)).fit() == 2
    assert roles.done("update") == [0, 1]
    assert roles.done("save") == [2] and roles.done("log") == [1, 2]


def test_a_second_signal_ends_at_once() -> None:
    roles = FakeRoles(during_update=raising(signal.SIGINT, signal.SIGINT, at=1))
    with pytest.raises(KeyboardInterrupt):
        trainer(roles, LoopSchedule(0, 9)).fit()
    assert roles.done("save") == []


def test_handlers_are_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    trainer(FakeRoles(), LoopSchedule(0, 1)).fit()
    trainer(FakeRoles(during_update=raising(signal.SIGTERM, at=0)), LoopSchedule(0, 5)).fit()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_failing_step_is_not_saved_and_handlers_are_restored() -> None:
    def fail(step: int) -> None:
        raise RuntimeError("no device")

    before, roles = [signal.getsignal(number) for number in SIGNALS], FakeRoles(during_update=fail)
    with pytest.raises(RuntimeError, match="no device"):
        trainer(roles, LoopSchedule(0, 3)).fit()
    assert roles.done("save") == []
    assert [signal.getsignal(number) for number in SIGNALS] == before


class InterruptedFile(io.RawIOBase):
    """A file that is never written without a signal arriving in the middle, the first time."""

    def __init__(self) -> None:
        self.text = ""

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        if not self.text:
            self.text = " "
            signal.raise_signal(signal.SIGTERM)
        self.text += bytes(data).decode()  # type: ignore[call-overload]
        return len(data)  # type: ignore[arg-type]


@pytest.fixture
def interrupted_file() -> Iterator[InterruptedFile]:
    """Where the root logger writes, through a buffer as log files and standard error have it."""
    file, root = InterruptedFile(), logging.getLogger()
    handler = logging.StreamHandler(io.TextIOWrapper(io.BufferedWriter(file)))
    root.addHandler(handler)
    yield file
    root.removeHandler(handler)


def test_a_signal_in_the_middle_of_a_log_line_is_printed_and_logged(
    interrupted_file: InterruptedFile, capfd: pytest.CaptureFixture[str]
) -> None:
    def log(step: int) -> None:
        logging.getLogger("anyone").warning("step %d", step)

    roles = FakeRoles(during_update=log)
    assert trainer(roles, LoopSchedule(0, 9)).fit() == 1
    assert roles.done("save") == [1]
    text = "SIGTERM: finishing this step and saving; a second signal terminates at once\n"
    assert capfd.readouterr().err == text
    assert interrupted_file.text.lstrip() == f"step 0\n{text}"


def test_the_request_is_in_the_log_file_and_once_on_the_console(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with start_logging(tmp_path, "driver", console_level=logging.INFO) as session:
        trainer(FakeRoles(during_update=raising(signal.SIGTERM, at=0)), LoopSchedule(0, 5)).fit()
    assert session.path is not None
    for text in (session.path.read_text(), capfd.readouterr().err):
        assert text.count("SIGTERM: finishing this step and saving; a second signal terminates at once\n") == 1


def test_without_standard_error_a_signal_still_lets_the_step_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.__stderr__", None)
    assert trainer(FakeRoles(during_update=raising(signal.SIGTERM, at=0)), LoopSchedule(0, 5)).fit() == 1


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    roles, steps = FakeRoles(), []
    thread = threading.Thread(target=lambda: steps.append(trainer(roles, LoopSchedule(0, 2)).fit()))
    thread.start()
    thread.join()
    assert steps == [2]
