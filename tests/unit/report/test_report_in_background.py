"""The report while a run trains: when it is written, what it costs, and that its failure stops nothing."""

from __future__ import annotations

import logging
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from mindspeed_dpo.commands import report as command
from mindspeed_dpo.report.background import SHARE_OF_TIME, SHORTEST_PAUSE_S, BackgroundReport
from mindspeed_dpo.report.serving import ReportServer
from tests.support.recorded_pages import Page, metrics_lines, run_folder


class FakeProcess:
    """A process that a test ends."""

    def __init__(self, seconds: str = "0.5\n", code: int = 0, errors: str = "") -> None:
        self.returncode: int | None = None
        self._end, self._output, self._errors = code, seconds, errors

    def poll(self) -> int | None:
        return self.returncode

    def end(self) -> None:
        self.returncode = self._end

    def wait(self, timeout: float | None = None) -> int:
        self.end()
        return self._end

    def communicate(self) -> tuple[str, str]:
        return self._output, self._errors


class Started:
    """Stands for `subprocess.Popen`: keeps what was started."""

    def __init__(self, **process: Any) -> None:
        self.processes: list[FakeProcess] = []
        self._process = process

    def __call__(self, *_: Any, **__: Any) -> FakeProcess:
        self.processes.append(FakeProcess(**self._process))
        return self.processes[-1]


@pytest.fixture
def now() -> list[float]:
    return [0.0]


def tracker(started: Started, now: list[float], monkeypatch: pytest.MonkeyPatch, **keys: Any) -> BackgroundReport:
    monkeypatch.setattr(subprocess, "Popen", started)
    return BackgroundReport(Path("out"), clock=lambda: now[0], **keys)


def test_pages_are_as_far_apart_as_they_are_expensive(now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    started = Started(seconds="0.5\n")
    report = tracker(started, now, monkeypatch)
    report.log(1, {"loss": 1.0})
    report.log(2, {"loss": 1.0})
    assert len(started.processes) == 1, "one is still being written"
    started.processes[0].end()
    pause_s = 0.5 / SHARE_OF_TIME
    assert pause_s > SHORTEST_PAUSE_S
    report.log(3, {"loss": 1.0})
    now[0] = pause_s - 1
    report.log(4, {"loss": 1.0, "eval/loss": 1.0})
    assert len(started.processes) == 1
    now[0] = pause_s
    report.log(5, {"loss": 1.0})
    assert len(started.processes) == 2


def test_pages_follow_the_interval_of_the_log_and_evaluations(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = Started()
    report = tracker(started, now, monkeypatch, interval=10)
    report.log(1, {"loss": 1.0})
    assert not started.processes
    report.log(3, {"loss": 1.0, "eval/loss": 1.0})
    assert len(started.processes) == 1
    started.processes[0].end()
    now[0] = 1e6
    report.log(9, {"loss": 1.0})
    now[0] = 2e6
    report.log(10, {"loss": 1.0})
    assert len(started.processes) == 2


def test_the_end_of_a_run_waits_for_its_last_page(now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    started = Started()
    report = tracker(started, now, monkeypatch)
    report.log(1, {"loss": 1.0})
    report.close()
    report.close()
    assert [process.returncode for process in started.processes] == [0, 0]


def test_a_page_that_cannot_be_written_is_reported_once(
    now: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    started = Started(seconds="", code=1, errors="Traceback\nno space left\n")
    report = tracker(started, now, monkeypatch)
    with caplog.at_level(logging.WARNING):
        report.log(1, {"loss": 1.0})
        started.processes[0].end()
        report.log(2, {"loss": 1.0})
        report.close()
    assert [record.getMessage() for record in caplog.records] == [
        "the report of this run was not written, training continues: no space left"
    ]


def test_a_last_page_that_cannot_be_written_says_nothing_of_training(
    now: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        tracker(Started(seconds="", code=1, errors="no space left\n"), now, monkeypatch).close()
    assert caplog.messages == ["the report of this run was not written: no space left"]


def test_a_process_of_its_own_writes_the_page_without_torch_and_ray(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    BackgroundReport(folder).close()
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    page.assert_is_self_contained()
    assert "Loss" in page.titles and not list(folder.glob(".report*"))


def test_the_command_writes_the_page_where_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, output = run_folder(tmp_path / "one"), run_folder(tmp_path / "two"), tmp_path / "both.html"
    assert command.main([str(one)]) == 0 and (one / "report.html").is_file()
    assert command.main([str(one), str(two), "--output", str(output)]) == 0 and output.is_file()
    assert capsys.readouterr().out == f"wrote {one / 'report.html'}\nwrote {output}\n"
    assert command.main([str(tmp_path)]) == 2
    assert command.main([str(one), "--output", str(tmp_path / "no" / "folder.html")]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and all(line.startswith("mindspeed-dpo report: ") for line in errors)


def test_a_served_page_is_renewed_when_the_run_has_logged_more(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", metrics=metrics_lines(3))
    output = folder / "report.html"
    command.main([str(folder)])
    with ReportServer([folder], output, 0) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with urllib.request.urlopen(server.place) as answer:
                assert "step 3 of 12" in answer.read().decode() and answer.headers["Refresh"]
            (folder / "metrics.jsonl").write_text(metrics_lines(7))
            with urllib.request.urlopen(server.place) as answer:
                assert "step 7 of 12" in answer.read().decode()
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"{server.place}config.yaml")
        finally:
            server.shutdown()
            thread.join()
