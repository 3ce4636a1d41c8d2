"""What the process does that runs tests in a copy of the checkout."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence
from pathlib import Path

PROFILE = "mutation"
"""Of hypothesis."""
_OURS = ("tests", "mindspeed_dpo")


def run_pytest(root: Path, arguments: Sequence[str], output: Path, compiles: bool) -> None:
    """Run pytest at the root of a copy and exit with its code.

    Args:
        root: The copy.
        arguments: Of pytest.
        output: File for what is printed.
        compiles: Whether Python may keep what it compiles.
    """
    os.setsid()
    _print_to(output)
    _work_in(root, compiles)
    import pytest
    from hypothesis import Phase, settings

    # A smaller example of the same failure would cost minutes, and it is of no use.
    settings.register_profile(PROFILE, deadline=None, phases=[Phase.explicit, Phase.generate])
    code = pytest.main(list(arguments))
    # A forked process ends without these, and test pools are stopped by one.
    atexit._run_exitfuncs()
    sys.exit(int(code))


def _print_to(output: Path) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    os.close(file)


def _work_in(root: Path, compiles: bool) -> None:
    """Import the project from the copy and nowhere else, also in processes that tests start."""
    os.chdir(root)
    elsewhere = Path(__file__).resolve().parents[2]
    sys.path[:] = [str(root), *(entry for entry in sys.path if entry and Path(entry).resolve() != elsewhere)]
    for name in [name for name in sys.modules if name.split(".")[0] in _OURS]:
        del sys.modules[name]
    os.environ |= {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    sys.dont_write_bytecode = not compiles
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if not compiles:
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
