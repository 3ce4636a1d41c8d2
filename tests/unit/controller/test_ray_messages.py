"""Messages of Ray's processes are in the log file of the driver and not on its console."""

from __future__ import annotations

import logging
import threading
from types import SimpleNamespace

import pytest
from ray._private import worker

from mindspeed_dpo.controller.ray_log_messages import log_ray_messages


def test_what_ray_prints_is_logged_and_not_printed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    stop = threading.Event()

    def poll() -> tuple[None, dict[str, object]]:
        stop.set()
        return None, {"job_id": None, "error_message": "Raylet is terminated. Last 20 lines:\n  [state-dump]"}

    subscriber = SimpleNamespace(subscribe=lambda: None, poll=poll)
    job = SimpleNamespace(binary=lambda: b"1")
    log_ray_messages()
    with caplog.at_level(logging.DEBUG):
        worker.listen_error_messages(SimpleNamespace(gcs_error_subscriber=subscriber, current_job_id=job), stop)
    assert capfd.readouterr() == ("", "")
    (record,) = [one for one in caplog.records if "Raylet is terminated" in one.message]
    assert record.levelno == logging.DEBUG
