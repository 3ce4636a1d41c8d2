"""Reads mutations in a forked child process, so that the parent survives crashes, hangs and any use of memory."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import time
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.targets import REFUSALS, Target

MEMORY_BYTES = 200 << 20
_ADDRESS_SPACE_BYTES = 4 << 30
_WAITING = 6
"""A mutation may take this many times its limit for processor time if it waits, or if the machine is busy."""


@dataclass
class Outcome:
    """What came of the mutations of one target.

    Attributes:
        num_read: Files that were read in spite of the mutation.
        num_refused: Files that were refused with an error of the package.
        faults: Everything else, by its first line, with the numbers of the mutations.
        seconds: Time of the children.
        worst_s: Processor time of the mutation that took longest.
        peak_bytes: Memory of the mutation that took most, beyond what was in use before.
    """

    num_read: int = 0
    num_refused: int = 0
    faults: dict[str, list[int]] = field(default_factory=dict)
    seconds: float = 0.0
    worst_s: float = 0.0
    peak_bytes: int = 0

    def add(self, fault: str, number: int) -> None:
        """Record a fault."""
        self.faults.setdefault(fault, []).append(number)

    def merge(self, other: Outcome) -> None:
        """Add what came of further mutations."""
        self.num_read += other.num_read
        self.num_refused += other.num_refused
        for fault, numbers in other.faults.items():
            self.faults.setdefault(fault, []).extend(numbers)
        self.seconds += other.seconds
        self.worst_s, self.peak_bytes = max(self.worst_s, other.worst_s), max(self.peak_bytes, other.peak_bytes)


def run_target(target: Target, root: Path, numbers: range, *, verbose: bool = False) -> Outcome:
    """Read the given mutations of a target, in as few children as do not crash."""
    outcome, start = Outcome(), time.monotonic()
    original = (root / target.file).read_bytes()
    next_number = numbers.start
    while next_number < numbers.stop:
        next_number = _run_child(target, root, original, range(next_number, numbers.stop), outcome, verbose)
    (root / target.file).write_bytes(original)
    outcome.seconds = time.monotonic() - start
    return outcome


def _run_child(target: Target, root: Path, original: bytes, numbers: range, outcome: Outcome, verbose: bool) -> int:
    """Fork a child for the numbers; return the number to go on with."""
    readable, writable = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(readable)
        # Nothing of the parent may run in the child, whatever happens there.
        try:
            _child(target, root, original, numbers, writable, verbose)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writable)
    number, rest = numbers.start, b""
    with os.fdopen(readable, "rb", buffering=0) as pipe:
        while True:
            if not select.select([pipe], [], [], _WAITING * target.limit_s)[0]:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                outcome.add(f"does not end within {_WAITING * target.limit_s:g} s", number)
                return number + 1
            block = pipe.read(1 << 16)
            if not block:
                break
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                _record(outcome, line.decode(), number)
                number += 1
    _, status = os.waitpid(process, 0)
    if number < numbers.stop:
        outcome.add(f"the process ended with status {os.waitstatus_to_exitcode(status)}", number)
        return number + 1
    return number


def _record(outcome: Outcome, line: str, number: int) -> None:
    """Add what a child reports of one mutation: result, seconds, bytes."""
    result, seconds, num_bytes = json.loads(line)
    outcome.worst_s, outcome.peak_bytes = max(outcome.worst_s, seconds), max(outcome.peak_bytes, num_bytes)
    if result == "read":
        outcome.num_read += 1
    elif result == "refused":
        outcome.num_refused += 1
    else:
        outcome.add(result, number)


def _child(target: Target, root: Path, original: bytes, numbers: range, pipe: int, verbose: bool) -> None:
    """Read one mutation after the other and report each."""
    warnings.simplefilter("ignore")
    silence = os.open(os.devnull, os.O_WRONLY)
    if not verbose:
        os.dup2(silence, 2)
    os.dup2(silence, 1)
    signal.signal(signal.SIGPROF, _time_out)
    used = _status_bytes("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (used + _ADDRESS_SPACE_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    file = root / target.file
    for number in numbers:
        data = target.mutated(original, number)
        # A new file each time: mapped memory of the one before stays valid.
        file.unlink(missing_ok=True)
        file.write_bytes(data)
        before, start = _start_of_peak(), time.process_time()
        signal.setitimer(signal.ITIMER_PROF, target.limit_s)
        result = _result(target, root, verbose)
        signal.setitimer(signal.ITIMER_PROF, 0)
        seconds, more = time.process_time() - start, max(0, _status_bytes("VmHWM") - before)
        if more > MEMORY_BYTES + len(data):
            result = f"takes more than {MEMORY_BYTES >> 20} MiB ({result})"
        os.write(pipe, f"{json.dumps([result, seconds, more])}\n".encode())
    os._exit(0)


def _result(target: Target, root: Path, verbose: bool) -> str:
    try:
        target.read(root)
    except REFUSALS as error:
        if not str(error).strip() or len(str(error)) > 5000:
            return f"says nothing, or too much: {type(error).__name__}: {str(error)[:100]!r}"
        return "refused"
    except BaseException as error:
        if verbose:
            traceback.print_exc()
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "mindspeed_dpo" in frame.filename] or list(frames)
        reason = " ".join(str(error).split())[:100]
        return f"{type(error).__name__}: {reason} at {Path(own[-1].filename).name}:{own[-1].lineno}"
    return "read"


def _time_out(*_: object) -> None:
    raise TimeoutError("not read in time")


def _start_of_peak() -> int:
    """Restart the count of peak memory, and return the memory in use."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _status_bytes("VmRSS")


def _status_bytes(name: str) -> int:
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(f"{name}:"))
    return int(line.split()[1]) << 10
