"""Command line: python -m tests.mutation.runner [--only WORD] [--jobs N] [--list]. See the package's description.

The exit code is 0 if every mutation was noticed, 1 if one was not, 2 if the tests already fail without mutation.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from rich.console import Console

from tests.mutation.catalogue import ROOT, Mutation, read_mutations, select
from tests.mutation.checkout import Outcome, copy_checkout, run_tests

NOTICED, SURVIVED, NO_RESULT = "noticed", "survived", "no result"
_PASSED, _FAILED = 0, 1  # exit codes of pytest
_LAST_LINES, _LONGEST_ID = 30, 160
console = Console(soft_wrap=True, highlight=False, markup=False)


@dataclass(frozen=True)
class Verdict:
    """What the tests say of a mutation: `NOTICED`, `SURVIVED`, or `NO_RESULT` where they could not be run.

    A mutation is also noticed if the process of the tests dies or does not end, since both come from the mutation.
    """

    mutation: Mutation
    outcome: Outcome

    @property
    def word(self) -> str:
        """The verdict."""
        if self.outcome.code in (_FAILED, None):
            return NOTICED
        return SURVIVED if self.outcome.code == _PASSED else NO_RESULT

    def line(self) -> str:
        """A row of the table: verdict, mutation, seconds, and the test that failed."""
        test = self.outcome.failed[0] if self.word == NOTICED and self.outcome.failed else "-"
        test = test if len(test) <= _LONGEST_ID else f"{test[:_LONGEST_ID]}…"
        return f"{self.word:10}{self.mutation.label:44}{self.outcome.seconds:7.1f} s  {test}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    options = _parser().parse_args(arguments)
    chosen = select(read_mutations(), options.only)
    if not chosen:
        console.print(f"no mutation has {' or '.join(options.only)} in its name, topic or file; --list shows them")
        return 2
    if options.list:
        for one in chosen:
            console.print(f"{one.label:44}{one.breaks}")
        return 0
    # Before torch is imported in the process that all runs are forked from.
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        copies = [Path(folder) / str(number) for number in range(max(1, min(options.jobs, len(chosen))))]
        copy_checkout(ROOT, copies[0])
        if not _passes_unchanged(copies[0], chosen, options.timeout):
            return 2
        for other in copies[1:]:
            shutil.copytree(copies[0], other)
        return _summary(_try_all(copies, chosen, options.timeout))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation.runner", description="Break the code, run the tests"
    )
    parser.add_argument("--only", action="append", default=[], metavar="WORD", help="part of a name, topic or file")
    parser.add_argument("--jobs", type=int, default=1, help="mutations at a time (default: 1)")
    parser.add_argument("--timeout", type=float, default=300, metavar="S", help="seconds for one mutation's tests")
    parser.add_argument("--list", action="store_true", help="show the mutations and run nothing")
    return parser


def _passes_unchanged(copy: Path, chosen: Sequence[Mutation], timeout_s: float) -> bool:
    """Whether all named tests pass, and are not skipped, without a mutation."""
    tests = list(dict.fromkeys(test for one in chosen for test in one.noticed_by))
    console.print(f"{len(chosen)} mutations, {len(tests)} tests named; without mutation:")
    outcome = run_tests(copy, tests, compiles=True, timeout_s=timeout_s * len(tests))
    if outcome.code == _PASSED and not outcome.skipped:
        console.print(f"passed in {outcome.seconds:.1f} s")
        return True
    console.print(_tail(outcome))
    console.print("; ".join(["the named tests must pass before a mutation can be tried", *outcome.skipped]))
    return False


def _try_all(copies: Sequence[Path], chosen: Sequence[Mutation], timeout_s: float) -> list[Verdict]:
    """Try every mutation, each in whichever copy is free, and print its row of the table."""
    free: SimpleQueue[Path] = SimpleQueue()
    for copy in copies:
        free.put(copy)

    def tried(mutation: Mutation) -> Verdict:
        copy = free.get()
        try:
            with mutation.applied(copy):
                verdict = Verdict(mutation, run_tests(copy, mutation.noticed_by, ["-x"], timeout_s=timeout_s))
        finally:
            free.put(copy)
        console.print(verdict.line())
        return verdict

    with ThreadPoolExecutor(len(copies)) as executor:
        return list(executor.map(tried, chosen))


def _summary(verdicts: Sequence[Verdict]) -> int:
    """Say what was not noticed; the exit code."""
    for verdict in verdicts:
        if verdict.word != NOTICED:
            one = verdict.mutation
            console.print(f"\n{verdict.word}: {one.label} in {one.file}: {one.breaks}")
            console.print(_tail(verdict.outcome))
    noticed = sum(verdict.word == NOTICED for verdict in verdicts)
    console.print(f"{noticed} of {len(verdicts)} mutations were noticed")
    return 0 if noticed == len(verdicts) else 1


def _tail(outcome: Outcome) -> str:
    return "\n".join(outcome.output.splitlines()[-_LAST_LINES:])


if __name__ == "__main__":
    sys.exit(main())
