"""What ends a run is logged once, where it happens, and becomes the exit code."""

from __future__ import annotations

import pytest

from mindspeed_dpo.processes.exit_codes import DONE, FAILED, INTERRUPTED
from mindspeed_dpo.trainers.run_failures import exit_code_of, failures_logged


@pytest.mark.parametrize(
    ("error", "code", "logged"),
    [
        (KeyboardInterrupt(), INTERRUPTED, "interrupted outside a step; checkpoints saved earlier are complete"),
        (ValueError("loss is nan"), FAILED, "loss is nan"),
        (OSError("disk is full"), FAILED, "disk is full"),
    ],
)
def test_a_failure_is_logged_once_before_what_surrounds_it_ends(
    error: BaseException, code: int, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    def run() -> int:
        try:
            with failures_logged():
                raise error
        finally:
            assert caplog.messages[:1] == [logged]

    assert exit_code_of(run) == code
    assert caplog.messages.count(logged) == 1


def test_a_failure_on_the_way_is_logged_too(caplog: pytest.LogCaptureFixture) -> None:
    assert exit_code_of(lambda: int("two")) == FAILED
    assert "invalid literal" in caplog.text
    assert exit_code_of(lambda: DONE) == DONE


def test_an_error_of_the_code_is_not_hidden() -> None:
    with pytest.raises(AssertionError), failures_logged():
        raise AssertionError
