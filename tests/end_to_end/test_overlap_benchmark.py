"""The benchmark that starts Ray runs at a tiny size and prints its table."""

from __future__ import annotations

import pytest

from tests.support.commands import ROOT, Running

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def test_it_measures_and_says_where() -> None:
    sizes = ["--size", "tiny", "--steps", "3", "--batch", "2", "--max-new", "4", "--sides", "ahead-async-save"]
    with Running(["benchmarks/overlap.py", *sizes], PYTHONPATH=str(ROOT)) as run:
        finished = run.finish()
    assert finished.code == 0, finished.text
    text = " ".join(finished.text.split())  # lines may be broken anywhere
    assert "ahead-async-save" in text and "Python 3" in text
