"""Processes that tokenize: no more than pay, and none that outlives the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
import pytest

from mindspeed_dpo.data.preprocessing import pipeline
from mindspeed_dpo.data.preprocessing.settings import PreprocessSettings

ROOT = Path(__file__).resolve().parents[3]
PARENT = """
import os, time
from mindspeed_dpo.data.preprocessing.process_pool import process_pool

if __name__ == "__main__":
    pool = process_pool(2, "mindspeed_dpo.data.preprocessing.process_pool")
    pids = {pool.submit(os.getpid).result() for _ in range(2)}
    busy = [pool.submit(time.sleep, 600) for _ in range(3)]
    print("ready", flush=True)
    busy[0].result()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_processes_end_with_the_one_that_started_them(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    command = [sys.executable, str(tmp_path / "parent.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 3
        process.send_signal(number)
    _, alive = psutil.wait_procs(children, timeout=30)
    for child in alive:
        child.kill()
    assert not alive


class _Pool:
    """Counts processes, and calls in this one."""

    sizes: list[int] = []  # noqa: RUF012  one list for the class is what is meant

    def __init__(self, count: int, preload: str) -> None:
        self.sizes.append(count)

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, function: Any, item: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(item))
        return future


@pytest.mark.parametrize(
    ("workers", "cores", "num_rows", "expected"),
    [
        (16, 64, 600, []),
        (16, 64, 1025, [2]),
        (16, 2, 9000, [2]),
        (3, 64, 9000, [3]),
        (16, 1, 9000, []),
        (1, 64, 9000, []),
    ],
)
def test_workers_are_bounded_by_cores_and_rows(
    monkeypatch: pytest.MonkeyPatch, workers: int, cores: int, num_rows: int, expected: list[int]
) -> None:
    _Pool.sizes.clear()
    monkeypatch.setattr(pipeline, "process_pool", _Pool)
    monkeypatch.setattr(pipeline, "available_cores", lambda: cores)
    monkeypatch.setattr(pipeline, "_encode_chunk", lambda _, rows: rows)
    rows = [{"a": n} for n in range(num_rows)]
    job = pipeline._Job("", (), "data")
    chunks = pipeline._encoded_chunks(job, iter(rows), PreprocessSettings(workers=workers))
    assert [row for chunk in chunks for row in chunk] == rows
    assert _Pool.sizes == expected
