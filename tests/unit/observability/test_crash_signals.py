"""The signal of a crash: written to the log of the process, and found there unless a later run has logged since."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mindspeed_dpo.observability.crash_signals import crash_sentence, crash_signal

CRASHING = """
import signal, sys
from pathlib import Path
from mindspeed_dpo.observability.crash_signals import record_crash_signals
record_crash_signals(Path(sys.argv[1]))
signal.raise_signal(int(sys.argv[2]))
"""


@pytest.mark.parametrize("number", [signal.SIGBUS, signal.SIGFPE])
def test_a_process_leaves_its_signal_in_its_log(tmp_path: Path, number: signal.Signals) -> None:
    log = tmp_path / "actor_0.log"
    log.write_text("[2026-01-01 00:00:00] INFO mindspeed_dpo: joined\n")
    ended = subprocess.run([sys.executable, "-c", CRASHING, log, str(int(number))], timeout=60)
    assert ended.returncode == -number
    assert log.read_text().startswith("[2026-01-01 00:00:00] INFO mindspeed_dpo: joined\n")
    assert crash_signal(log) == number


def test_a_sentence_tells_the_likely_cause(tmp_path: Path) -> None:
    log = tmp_path / "actor_0.log"
    log.write_text('[2026] INFO a: b\nFatal Python error: Bus error\n\nStack:\n  File "a.py", line 1 in f\n')
    assert crash_sentence(log).startswith("the process died of SIGBUS: a file that it had mapped into memory was cut")
    log.write_text("Fatal Python error: Segmentation fault\n")
    assert crash_sentence(log) == "the process died of SIGSEGV: it crashed"


@pytest.mark.parametrize(
    "text",
    [
        "[2026] INFO a: b\n",
        "Fatal Python error: Bus error\n[2026] INFO a: a later run\n",
        "[2026] INFO a: b\nFatal Python error: something else\n",
    ],
)
def test_other_ends_tell_no_signal(tmp_path: Path, text: str) -> None:
    log = tmp_path / "actor_0.log"
    log.write_text(text)
    assert crash_signal(log) is None
    assert crash_sentence(tmp_path / "absent.log") == ""
