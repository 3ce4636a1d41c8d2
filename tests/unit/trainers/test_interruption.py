"""A polite stop: the first signal lets the step end and be saved, the second ends at once, handlers are put back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import pytest

from mindspeed_dpo.trainers.interruption import SIGNALS
from mindspeed_dpo.trainers.offline_dpo import Plan
from tests.unit.trainers.pretended import Pretended, trainer


def raising(*signals: signal.Signals, at: int) -> Callable[[int], None]:
    def during_update(step: int) -> None:
        for number in signals if step == at else ():
            signal.raise_signal(number)

    return during_update


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("save_interval", [None, 2], ids=["end only", "due at that step"])
def test_a_signal_lets_the_step_end_and_saves_it_once(number: signal.Signals, save_interval: int | None) -> None:
    roles = Pretended(during_update=raising(number, at=1))
    assert trainer(roles, Plan(0, 9, save_interval=save_interval)).fit() == 2
    assert roles.done("update") == [0, 1]
    assert roles.done("save") == [2] and roles.done("log") == [1, 2]


def test_a_second_signal_ends_at_once() -> None:
    roles = Pretended(during_update=raising(signal.SIGINT, signal.SIGINT, at=1))
    with pytest.raises(KeyboardInterrupt):
        trainer(roles, Plan(0, 9)).fit()
    assert roles.done("save") == []


def test_handlers_are_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    trainer(Pretended(), Plan(0, 1)).fit()
    trainer(Pretended(during_update=raising(signal.SIGTERM, at=0)), Plan(0, 5)).fit()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_failing_step_is_not_saved_and_handlers_are_restored() -> None:
    def fail(step: int) -> None:
        raise RuntimeError("no device")

    before, roles = [signal.getsignal(number) for number in SIGNALS], Pretended(during_update=fail)
    with pytest.raises(RuntimeError, match="no device"):
        trainer(roles, Plan(0, 3)).fit()
    assert roles.done("save") == []
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    roles, steps = Pretended(), []
    thread = threading.Thread(target=lambda: steps.append(trainer(roles, Plan(0, 2)).fit()))
    thread.start()
    thread.join()
    assert steps == [2]
