"""Ray's servers are watched as soon as they exist, and no longer than they are needed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mindspeed_dpo.controller import ray_servers
from mindspeed_dpo.controller.ray_servers import watched_servers
from tests.support.commands import until

WATCHED_WITHIN_S = 60


class Link:
    """A link to a supervisor that records the watch."""

    def __init__(self) -> None:
        self.watched: list[tuple[str, int]] = []
        self.has_stopped = False
        self.sentence = ""

    def watch_process(self, name: str, pid: int) -> None:
        self.watched.append((name, pid))

    def stop_watching(self) -> None:
        self.has_stopped = True

    def loss(self, wait_s: float = 0.0) -> str:
        return self.sentence


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> Link:
    link = Link()
    monkeypatch.setattr(ray_servers, "driver_link", link)
    return link


@contextmanager
def program(folder: Path, name: str) -> Iterator[int]:
    """A program of that name; gives its process id."""
    path = shutil.copy(str(shutil.which("sleep")), folder / name)
    with subprocess.Popen([path, "600"]) as process:
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_a_server_is_watched_while_ray_still_starts(link: Link, name: str, tmp_path: Path) -> None:
    with watched_servers(), program(tmp_path, "other"), program(tmp_path, name) as pid:
        until(lambda: bool(link.watched), "the watch of the server", WATCHED_WITHIN_S)
        assert link.watched == [(name, pid)]
    assert not link.has_stopped


def test_a_server_that_starts_at_the_end_is_watched(link: Link, tmp_path: Path) -> None:
    with program(tmp_path, "raylet") as pid:
        with watched_servers():
            pass
        assert link.watched == [("raylet", pid)]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_ends_the_watch(link: Link, error: type[BaseException]) -> None:
    with pytest.raises(error), watched_servers():
        raise error
    assert link.has_stopped


def test_the_end_of_a_server_is_the_cause_of_an_error(link: Link) -> None:
    link.sentence = "raylet (process 1) died"
    with pytest.raises(RuntimeError), watched_servers():
        raise RuntimeError
    assert not link.has_stopped
