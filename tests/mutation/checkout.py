"""A copy of the checkout, tests run in it, and what came of them.

Each run has a process of its own, forked from one that has imported torch, megatron-core and pytest but nothing of this
project: importing those would take most of the time of a small test.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.child import PROFILE, run_pytest

_REPORT, _OUTPUT = "mutation-report.xml", "mutation-output.txt"


@dataclass(frozen=True)
class Outcome:
    """What a run of pytest came to.

    Attributes:
        code: Exit code of pytest; None where it ran out of time or its process died.
        failed: Ids of the tests that failed.
        skipped: Ids of the tests that were skipped.
        seconds: Wall-clock time.
        output: What pytest printed.
    """

    code: int | None
    failed: tuple[str, ...]
    skipped: tuple[str, ...]
    seconds: float
    output: str


def copy_checkout(root: Path, target: Path) -> None:
    """Copy the files of a checkout that git has or would take, with their changes that are not committed.

    Raises:
        subprocess.CalledProcessError: The folder is no checkout of git.
    """
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)


def run_tests(
    root: Path, tests: Sequence[str], options: Sequence[str] = (), *, compiles: bool = False, timeout_s: float
) -> Outcome:
    """Run tests in a copy of the checkout.

    Args:
        root: The copy.
        tests: Ids.
        options: Further options of pytest.
        compiles: Whether Python may keep what it compiles; not with mutated files.
        timeout_s: After so many seconds the processes are killed.
    """
    report, output = root / _REPORT, root / _OUTPUT
    report.unlink(missing_ok=True)
    # The same examples of hypothesis each time, so that a result can be had again.
    fixed = [
        "-q",
        "-p",
        "no:cacheprovider",
        "--hypothesis-seed=0",
        f"--hypothesis-profile={PROFILE}",
        f"--junitxml={report}",
    ]
    # pytest cannot rewrite the assertions of what is imported already.
    fixed += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.mutation.preloaded"])
    process = context.Process(target=run_pytest, args=(root, [*fixed, *options, *tests], output, compiles))
    start = time.perf_counter()
    process.start()
    process.join(timeout_s)
    code = process.exitcode if process.exitcode is None or process.exitcode >= 0 else None
    seconds = time.perf_counter() - start
    # Tests start processes of their own, all in the session of this one.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()
    failed, skipped = _outcomes(report)
    return Outcome(code, failed, skipped, seconds, output.read_text(errors="replace") if output.is_file() else "")


def _outcomes(report: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids of failed and of skipped tests; none where pytest wrote no report."""
    if not report.is_file():
        return (), ()
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = tuple(_id(case) for case in cases if case.find("failure") is not None or case.find("error") is not None)
    return failed, tuple(_id(case) for case in cases if case.find("skipped") is not None)


def _id(case: ElementTree.Element) -> str:
    return f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
