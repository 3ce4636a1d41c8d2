"""The numerical tests at several instruction sets, as one processor after the other would run them: `make test-isa`.

python tests/instruction_sets.py [--levels sse,avx2] [pytest arguments]

A level takes instructions away from torch, oneDNN and MKL by their own environment variables, which the processes of
the tests and of Ray inherit; what this processor lacks is absent at every level. The level also decides whether
products of bfloat16 go through float32 (mindspeed_dpo/device/bf16_emulation.py).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table

LEVELS: dict[str, dict[str, str]] = {
    "sse": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "mixed": {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "MKL_ENABLE_INSTRUCTIONS": "AVX512"},
    "avx512_bf16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16", "MKL_ENABLE_INSTRUCTIONS": "AVX512"},
    "native": {},
}
# MKL_CBWR makes MKL's results independent of the processor, which is what is to be varied here.
VARIED = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")
PROBE = """
import torch
from mindspeed_dpo.device.bf16_emulation import is_bf16_emulated
print(torch.backends.cpu.get_cpu_capability(), "float32" if is_bf16_emulated() else "own")
"""


@dataclass(frozen=True)
class Outcome:
    """The tests at one level.

    Attributes:
        capability: What torch's own kernels use.
        products: How bfloat16 is multiplied.
        counts: Tests that passed, failed and were skipped.
        failures: Names of those that failed.
        seconds: Of the complete run.
        closest: The largest share of its bound that a comparison used, and of which test.
    """

    capability: str
    products: str
    counts: tuple[int, int, int]
    failures: list[str]
    seconds: float
    closest: tuple[float, str]


def environment(level: str, log: Path) -> dict[str, str]:
    """Of the processes at a level."""
    own = {name: value for name, value in os.environ.items() if name not in VARIED}
    return {**own, "OMP_NUM_THREADS": "1", "CLOSENESS_LOG": str(log), **LEVELS[level]}


def outcome_of(level: str, arguments: list[str]) -> Outcome:
    """Run the tests at a level."""
    with tempfile.TemporaryDirectory() as folder:
        log, report, begun = Path(folder) / "closeness.jsonl", Path(folder) / "report.xml", time.monotonic()
        variables = environment(level, log)
        probe = subprocess.run([sys.executable, "-c", PROBE], env=variables, capture_output=True, text=True, check=True)
        capability, products = probe.stdout.split()
        command = [sys.executable, "-m", "pytest", "-m", "numerics", "-q", f"--junitxml={report}", *arguments]
        subprocess.run(command, env=variables, check=False)
        counts, failures = results(report)
        return Outcome(capability, products, counts, failures, time.monotonic() - begun, closest(log))


def results(report: Path) -> tuple[tuple[int, int, int], list[str]]:
    """Numbers of tests that passed, failed and were skipped, and the names of those that failed."""
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    names = [f"{case.get('classname')}::{case.get('name')}" for case in failed]
    return (len(cases) - len(failed) - len(skipped), len(failed), len(skipped)), names


def closest(log: Path) -> tuple[float, str]:
    """The comparison that used the largest share of its bound."""
    lines = log.read_text().splitlines() if log.exists() else []
    return max(((entry["share"], entry["test"]) for entry in map(json.loads, lines)), default=(0.0, ""))


def table(outcomes: dict[str, Outcome]) -> Table:
    """One line a level."""
    shown = Table("level", "torch", "bfloat16 products", "passed", "failed", "skipped", "s", "largest share of a bound")
    for level, one in outcomes.items():
        share, test = one.closest
        counts = [str(count) for count in one.counts]
        shown.add_row(level, one.capability, one.products, *counts, f"{one.seconds:.0f}", f"{share:.2f} {test}")
    return shown


def main() -> int:
    """Run all levels and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", default=",".join(LEVELS), help="levels to run, joined by commas")
    options, arguments = parser.parse_known_args()
    outcomes = {level: outcome_of(level, arguments) for level in options.levels.split(",")}
    console = Console()
    for level, one in outcomes.items():
        for name in one.failures:
            console.print(f"{level}: failed: {name}", markup=False, highlight=False, soft_wrap=True)
    console.print(table(outcomes))
    return int(any(one.counts[1] or not one.counts[0] for one in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
