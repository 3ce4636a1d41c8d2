"""Ctrl-C and SIGTERM end a command without a supervisor in one sentence, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from mindspeed_dpo.commands import entry
from mindspeed_dpo.observability.metrics_jsonl import METRICS_FILE
from mindspeed_dpo.processes.interruption import SIGNALS, ended_by_signals
from mindspeed_dpo.report.serving import ReportServer
from mindspeed_dpo.weights.legacy import legacy_writer
from tests.fuzz.seeds import write_hf


@pytest.fixture(autouse=True)
def _same_handlers() -> object:
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_command_says_that_it_was_interrupted(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(entry.COMMANDS, "report", lambda words: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as ended:
        entry.main(["report", "x"])
    assert ended.value.code == 130 and capsys.readouterr().err == "mindspeed-dpo report: interrupted\n"


def test_ctrl_c_is_how_a_served_report_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ReportServer, "serve_forever", lambda _: os.kill(os.getpid(), signal.SIGINT))
    (tmp_path / METRICS_FILE).write_text('{"step": 1, "loss": 0.5}\n', encoding="utf-8")
    assert entry.main(["report", str(tmp_path), "--serve"]) == 0
    printed = capsys.readouterr()
    assert "Ctrl-C ends this" in printed.out and not printed.err


def test_the_second_signal_is_that_of_the_system() -> None:
    with pytest.raises(SystemExit), ended_by_signals("x"):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            assert [signal.getsignal(number) for number in SIGNALS] == [signal.SIG_DFL, signal.SIG_DFL]


def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, target = write_hf(tmp_path / "hf"), tmp_path / "a/b"
    monkeypatch.setattr(legacy_writer, "write_text_atomically", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    words = [
        "--load-model-type",
        "hf",
        "--save-model-type",
        "mg",
        "--load-dir",
        str(weights),
        "--save-dir",
        str(target),
    ]
    with pytest.raises(SystemExit):
        entry.main(["convert", *words])
    assert not any(path.name.startswith(".") for path in tmp_path.rglob("*"))


def test_a_thread_leaves_the_handlers_alone() -> None:
    handlers = []

    def run() -> None:
        with ended_by_signals("x"):
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]
