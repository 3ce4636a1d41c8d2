"""The levels of `make test-isa` take effect, and its report counts what failed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.instruction_sets import PROBE, closest, environment, results

REPORT = """<testsuites><testsuite>
<testcase classname="tests.a" name="one"/><testcase classname="tests.a" name="two"><failure>no</failure></testcase>
<testcase classname="tests.a" name="three"><skipped/></testcase>
<testcase classname="tests.b" name="four"><error/></testcase>
</testsuite></testsuites>"""


def test_a_level_decides_what_torch_uses_and_how_bfloat16_is_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    variables = environment("sse", Path("log"))
    assert "MKL_CBWR" not in variables
    probe = subprocess.run([sys.executable, "-c", PROBE], env=variables, capture_output=True, text=True, check=True)
    assert probe.stdout.split() == ["DEFAULT", "float32"]


def test_the_report_is_counted_and_failures_are_named(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    assert results(tmp_path / "report.xml") == ((1, 2, 1), ["tests.a::two", "tests.b::four"])


def test_the_comparison_closest_to_its_bound_is_shown(tmp_path: Path) -> None:
    assert closest(tmp_path / "log") == (0.0, "")
    (tmp_path / "log").write_text('{"share": 0.25, "test": "a"}\n{"share": 0.5, "test": "b"}\n')
    assert closest(tmp_path / "log") == (0.5, "b")
