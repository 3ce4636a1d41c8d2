"""Runs mutations in a forked child, which survives crashes, hangs and greed: python -m tests.fuzz.runner --help."""

from __future__ import annotations

import argparse
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.targets import REFUSALS, TARGETS, Target, write_seeds

LIMIT_S = 10
MEMORY_BYTES = 200 << 20
_ADDRESS_SPACE_BYTES = 4 << 30


@dataclass
class Outcome:
    """What came of the mutations of one target.

    Attributes:
        num_read: Files that were read in spite of the mutation.
        num_refused: Files that were refused with an error of the package.
        faults: Everything else, by its first line, with the numbers of the mutations.
        seconds: Time of the child.
    """

    num_read: int = 0
    num_refused: int = 0
    faults: dict[str, list[int]] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, fault: str, number: int) -> None:
        """Record a fault."""
        self.faults.setdefault(fault, []).append(number)


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
        _child(target, root, original, numbers, writable, verbose)
    os.close(writable)
    number, rest = numbers.start, b""
    with os.fdopen(readable, "rb", buffering=0) as pipe:
        while True:
            if not select.select([pipe], [], [], 2 * LIMIT_S)[0]:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                outcome.add(f"does not end within {2 * LIMIT_S} s", number)
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
    if line == "read":
        outcome.num_read += 1
    elif line == "refused":
        outcome.num_refused += 1
    else:
        outcome.add(line, number)


def _child(target: Target, root: Path, original: bytes, numbers: range, pipe: int, verbose: bool) -> None:
    """Read one mutation after the other and report each; never returns."""
    warnings.simplefilter("ignore")
    silence = os.open(os.devnull, os.O_WRONLY)
    if not verbose:
        os.dup2(silence, 2)
    os.dup2(silence, 1)
    signal.signal(signal.SIGALRM, _time_out)
    used = _status_bytes("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (used + _ADDRESS_SPACE_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    file = root / target.file
    for number in numbers:
        data = target.mutated(original, number)
        # A new file each time: mapped memory of the one before stays valid.
        file.unlink(missing_ok=True)
        file.write_bytes(data)
        before = _start_of_peak()
        signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
        result = _result(target, root, verbose)
        signal.setitimer(signal.ITIMER_REAL, 0)
        more = _status_bytes("VmHWM") - before
        if more > MEMORY_BYTES + len(data):
            result = f"takes more than {MEMORY_BYTES >> 20} MiB ({result})"
        os.write(pipe, f"{result}\n".encode(errors="backslashreplace"))
    os._exit(0)


def _result(target: Target, root: Path, verbose: bool) -> str:
    try:
        target.read(root)
    except REFUSALS as error:
        if not str(error).strip() or len(str(error)) > 5000:
            return f"says nothing, or too much: {type(error).__name__}"
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
    raise TimeoutError(f"not read within {LIMIT_S} s")


def _start_of_peak() -> int:
    """Restart the count of peak memory, and return the memory in use."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _status_bytes("VmRSS")


def _status_bytes(name: str) -> int:
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(f"{name}:"))
    return int(line.split()[1]) << 10


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description="Read mutated files of every kind.")
    parser.add_argument("--count", type=int, default=20_000, help="mutations of each target")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--only", default="", help="targets whose names contain this")
    parser.add_argument("--verbose", action="store_true", help="print the traceback of every fault")
    options = parser.parse_args()
    faults: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        root = write_seeds(Path(folder))
        for target in (target for target in TARGETS if options.only in target.name):
            numbers = range(options.first, options.first + options.count)
            outcome = run_target(target, root, numbers, verbose=options.verbose)
            print(
                f"{target.name:16} {outcome.num_read:6} read, {outcome.num_refused:6} refused, "
                f"{sum(map(len, outcome.faults.values())):4} faults, {outcome.seconds:6.1f} s",
                flush=True,
            )
            for fault, where in outcome.faults.items():
                faults[target.name] += len(where)
                print(f"    {len(where)} x {fault} (first: --only {target.name} --first {where[0]} --count 1)")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
