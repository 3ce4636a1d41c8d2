"""Every usual mistake gets its sentence and its exit code, in a bounded time, and starts nothing."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray

from mindspeed_dpo.commands import convert, entry, preprocess, train
from mindspeed_dpo.processes import supervisor
from tests.support.commands import ROOT, Finished
from tests.unit.commands.mistake import Mistake
from tests.unit.commands.mistake_inputs import CONDITIONS, machine_without_devices_and_clusters, write_inputs
from tests.unit.commands.mistake_table import CHAPTERS
from tests.unit.commands.mistakes_page import page

LIMIT_S = 30
"""None of them may wait longer."""
PROGRAMS: dict[str, Callable[[list[str]], int]] = {
    "mindspeed-dpo": entry.main,
    "ray_gpt.py": train.main,
    "convert_ckpt.py": convert.main,
    "preprocess_data.py": preprocess.main,
}
MISTAKES = {f"{title}: {one.title}": one for title, mistakes in CHAPTERS.items() for one in mistakes}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_inputs()
    return folder


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Give up after some seconds."""

    def give_up(*_: Any) -> None:
        raise TimeoutError(f"no answer within {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def answer(one: Mistake, capture: pytest.CaptureFixture[str]) -> Finished:
    """What the command says; what escapes it fails the test with its traceback."""
    program, *words = [word for word in shlex.split(one.command) if word != "python"]
    capture.readouterr()
    try:
        with time_limit(LIMIT_S):
            code = PROGRAMS[program](words)
    except SystemExit as ended:
        code = int(ended.code or 0)
    printed = capture.readouterr()
    return Finished(code, printed.out + printed.err)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_its_sentence(
    name: str, inputs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(inputs)
    monkeypatch.setattr(ray, "init", lambda *args, **options: pytest.fail("Ray was started"))
    monkeypatch.setattr(supervisor, "supervise", lambda work: work())
    machine_without_devices_and_clusters(monkeypatch)
    CONDITIONS[MISTAKES[name].condition](monkeypatch)
    finished = answer(MISTAKES[name], capfd)
    assert MISTAKES[name].is_told_by(finished.text), finished.text
    assert finished.code == MISTAKES[name].code and "Traceback" not in finished.text, finished.text


def test_there_are_enough_mistakes_and_each_is_of_its_own() -> None:
    assert len(MISTAKES) >= 40 and len({one.command for one in MISTAKES.values()}) == len(MISTAKES)


def test_the_page_lists_them() -> None:
    command = "python -m tests.unit.commands.mistakes_page > docs/mistakes.md"
    assert (ROOT / "docs" / "mistakes.md").read_text(encoding="utf-8") == page(), f"run {command}"
