"""Interpreters with vLLM for tests: the real one that an environment variable names, and one with a stand-in."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest

VARIABLE = "TEST_VLLM_PYTHON"
STAND_IN = Path(__file__).parent / "stand_in_vllm"
NEEDS_VLLM = pytest.mark.skipif(
    VARIABLE not in os.environ, reason=f"needs vLLM; {VARIABLE} names the interpreter of an environment that has it"
)


def vllm_python(folder: Path) -> Path:
    """The interpreter that has vLLM, with compilation disabled, which takes longer than it saves here."""
    return _script(folder, "TORCHDYNAMO_DISABLE=1", os.environ[VARIABLE])


def stand_in_python(folder: Path, platform: str = "cpu") -> Path:
    """An interpreter in which the stand-in of vLLM can be imported, and this package only as any other can."""
    return _script(folder, f"STAND_IN_PLATFORM={platform} PYTHONPATH={shlex.quote(str(STAND_IN))}", sys.executable)


def _script(folder: Path, variable: str, python: str) -> Path:
    script = folder / "python"
    script.write_text(f'#!/bin/sh\n{variable} exec {shlex.quote(python)} "$@"\n')
    script.chmod(0o755)
    return script
