"""The folder of a run's own Ray is removed at its end, and one that a killed run has left by the next run."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mindspeed_dpo.controller import ray_connection, ray_folders
from mindspeed_dpo.controller.ray_connection import ClusterError
from mindspeed_dpo.controller.ray_folders import LEAST_BYTES, LOCK_FILE, private_folder, remove_abandoned_folders

KILLED_RUN = """
import os, pathlib, signal, sys
from mindspeed_dpo.storage.process_lock import ProcessLock
ProcessLock(pathlib.Path(sys.argv[1])).acquire()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (ray_folders, ray_connection):
        monkeypatch.setattr(module, "folder_root", lambda: str(tmp_path))
    return tmp_path


def folder_of_a_killed_run(root: Path) -> Path:
    folder = root / "dpo_ray_killed"
    (folder / "session" / "logs").mkdir(parents=True)
    command = [sys.executable, "-c", KILLED_RUN, str(folder / LOCK_FILE)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    return folder


def test_a_full_disk_is_noticed_before_ray_waits_for_its_files(root: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LEAST_BYTES // 2, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"), private_folder():
            pass
        with pytest.raises(ClusterError, match=rf"Ray's folder {root} cannot be written \(.*\); set RAY_TMPDIR"):
            ray_connection.check_folder_root()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [*root.iterdir()]


def test_a_private_folder_is_removed_at_the_end(root: Path) -> None:
    with private_folder() as folder:
        assert folder.parent == root and folder.stat().st_mode & 0o077 == 0
        (folder / "session").mkdir()
    assert list(root.iterdir()) == []


def test_the_folder_of_a_run_that_was_killed_is_removed_by_the_next_run(root: Path) -> None:
    killed = folder_of_a_killed_run(root)
    with private_folder() as folder:
        assert not killed.exists() and folder.is_dir()


def test_folders_of_living_runs_and_of_runs_that_begin_stay(root: Path) -> None:
    beginning, other = root / "dpo_ray_beginning", root / "ray"
    beginning.mkdir()
    (beginning / LOCK_FILE).touch()
    other.mkdir()
    with private_folder() as living:
        remove_abandoned_folders(root)
        assert living.is_dir() and beginning.is_dir() and other.is_dir()


def test_a_folder_of_another_user_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed, user = folder_of_a_killed_run(root), os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    remove_abandoned_folders(root)
    assert killed.is_dir()
