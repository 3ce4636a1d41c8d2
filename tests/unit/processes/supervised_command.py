"""A command whose work is supervised, for tests: `python supervised_command.py CASE`. It prints process ids first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable

from mindspeed_dpo.processes import grace_periods, supervisor
from mindspeed_dpo.processes.driver_link import driver_link

FOREVER_S = 600


def sleeping_program() -> subprocess.Popen[bytes]:
    """Start a program that leads a session of its own."""
    return subprocess.Popen(["sleep", str(FOREVER_S)], start_new_session=True)


def announce(*pids: int) -> None:
    """Print process ids on one line, this one first."""
    sys.stdout.write(" ".join(map(str, [os.getpid(), *pids])) + "\n")
    sys.stdout.flush()


def block_signals() -> None:
    """Handle no signal, as in calls of Ray's that no Python signal handler interrupts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])


def orphan() -> int:
    """End well, and leave a program whose parent has ended and which leads a session of its own."""
    shell = subprocess.run(
        ["sh", "-c", f"setsid sleep {FOREVER_S} >&- 2>&- & echo $!"], stdout=subprocess.PIPE, text=True, check=True
    )
    announce(int(shell.stdout))
    return 0


def waiting() -> int:
    """Wait for a signal beside a program of a session of its own."""
    announce(sleeping_program().pid)
    threading.Event().wait(FOREVER_S)
    return 0


def speaking() -> int:
    """Print a line on the terminal."""
    announce()
    sys.stderr.write("a line\n")
    return 0


def deaf() -> int:
    """Wait without handling signals."""
    block_signals()
    announce(sleeping_program().pid)
    threading.Event().wait(FOREVER_S)
    return 0


def patient() -> int:
    """Wait without handling signals, under a supervisor that after a first one waits, too."""
    return deaf()


def graceful() -> int:
    """Need longer than a run may take after a signal, and say so."""
    stop = threading.Event()

    def handle(number: int, frame: object) -> None:
        driver_link.announce_graceful_stop()
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    announce()
    stop.wait(FOREVER_S)
    threading.Event().wait(5.5)
    return 130


def reporting() -> int:
    """Need a program, and report its end."""
    program = sleeping_program()
    driver_link.watch_process("gcs_server", program.pid)
    announce(program.pid)
    sys.stderr.write(f"seen: {driver_link.loss(FOREVER_S)}\n")
    return 1


def fated() -> int:
    """Need a program that ends with this process, as Ray's do."""
    program = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import ctypes, time; ctypes.CDLL(None).prctl(1, 9); print(flush=True); time.sleep(600)",
        ],
        stdout=subprocess.PIPE,
    )
    assert program.stdout is not None
    program.stdout.readline()
    driver_link.watch_process("raylet", program.pid)
    announce(program.pid)
    threading.Event().wait(FOREVER_S)
    return 0


def aborting() -> int:
    """Need a program, and be aborted as soon as it ends."""
    program = sleeping_program()
    driver_link.watch_process("raylet", program.pid)
    announce(program.pid)
    program.wait()
    os.abort()


def blocked() -> int:
    """Need a program, and notice nothing."""
    program = sleeping_program()
    driver_link.watch_process("gcs_server", program.pid)
    block_signals()
    announce(program.pid)
    threading.Event().wait(FOREVER_S)
    return 0


def complete() -> int:
    """Have all results when the program that was needed ends, and be aborted."""
    program = sleeping_program()
    driver_link.watch_process("gcs_server", program.pid)
    driver_link.announce_result(0)
    announce(program.pid)
    program.wait()
    os.abort()


def outliving() -> int:
    """End well just after the supervisor was killed, beside a program that still writes to the run's folder."""
    folder = tempfile.mkdtemp()
    driver_link.remove_at_end(folder)
    supervised = os.getppid()
    program = subprocess.Popen(
        ["sh", "-c", 'while :; do mkdir -p "$0" && : > "$0/$$"; done', folder], start_new_session=True
    )
    announce(program.pid)
    sys.stderr.write(f"{folder}\n")
    sys.stderr.flush()
    os.kill(supervised, signal.SIGKILL)
    while os.getppid() == supervised:
        os.sched_yield()
    return 0


def slow() -> int:
    """Take longer for a step than its limit."""
    announce()
    with driver_link.time_limit(0.3, "Ray did not start within 0.3 s"):
        block_signals()
        threading.Event().wait(FOREVER_S)
    return 0


FUNCTIONS = (
    orphan,
    waiting,
    speaking,
    deaf,
    patient,
    graceful,
    reporting,
    fated,
    aborting,
    blocked,
    complete,
    outliving,
    slow,
)
CASES: dict[str, Callable[[], int]] = {function.__name__: function for function in FUNCTIONS}

if __name__ == "__main__":
    if sys.argv[1] == patient.__name__:
        grace_periods.SIGNAL_GRACE_S = FOREVER_S
    sys.exit(supervisor.supervise(CASES[sys.argv[1]]))
