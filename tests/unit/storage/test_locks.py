"""Locks: one holder at a time, named to the second; gone with the process that held it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mindspeed_dpo.storage.process_lock import LockHeldError, ProcessLock

HOLD = """
import sys
from pathlib import Path
from mindspeed_dpo.storage.process_lock import ProcessLock
ProcessLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def hold(path: Path) -> subprocess.Popen[str]:
    """A process that holds a lock until its standard input ends."""
    root = Path(__file__).resolve().parents[3]
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        env={**os.environ, "PYTHONPATH": str(root)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_holder_is_refused_with_the_first_ones_name(tmp_path: Path) -> None:
    with ProcessLock(tmp_path / "lock"):
        with pytest.raises(LockHeldError) as caught:
            ProcessLock(tmp_path / "lock").acquire()
        assert caught.value.holder.startswith(f"process {os.getpid()} on {socket.gethostname()} since 20")
    assert list(tmp_path.iterdir()) == []
    with ProcessLock(tmp_path / "lock"):
        pass


def test_a_killed_holder_leaves_a_file_and_no_lock(tmp_path: Path) -> None:
    process = hold(tmp_path / "lock")
    with pytest.raises(LockHeldError, match=f"held by process {process.pid} on "):
        ProcessLock(tmp_path / "lock").acquire()
    process.kill()
    process.communicate()
    assert (tmp_path / "lock").is_file()
    with ProcessLock(tmp_path / "lock"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_holder_without_a_name_is_another_process(tmp_path: Path) -> None:
    with ProcessLock(tmp_path / "lock"):
        (tmp_path / "lock").write_bytes(b"")
        with pytest.raises(LockHeldError, match="held by another process"):
            ProcessLock(tmp_path / "lock").acquire()


def test_releasing_twice_or_without_holding_does_nothing(tmp_path: Path) -> None:
    lock = ProcessLock(tmp_path / "lock")
    lock.release()
    lock.acquire()
    lock.release()
    with ProcessLock(tmp_path / "lock"):
        lock.release()
        assert (tmp_path / "lock").exists()
