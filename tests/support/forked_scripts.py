"""Runs scripts in processes forked from one that has imported what they need, as the imports take the longest."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import sys
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.support.forkserver import template

FINISH_S = 300.0


def run_forked(script: Path, words: Sequence[str], folder: Path) -> tuple[int, str]:
    """Run a script of the benchmarks in a folder; gives its exit code and what it printed.

    The processes that it starts to measure are forked from it.
    """
    end, child = multiprocessing.Pipe()
    template("cpu").fork(_serve, script, list(words), folder, child)
    child.close()
    if not end.poll(FINISH_S):
        raise AssertionError(f"{script.name} gave no result within {FINISH_S:g} s")
    return end.recv()


def _serve(script: Path, words: list[str], folder: Path, end: Connection) -> None:
    os.chdir(folder)
    sys.path.insert(0, str(script.parent))
    import many_processes
    import measuring

    measuring.in_child = _in_child
    many_processes.START_METHOD = "fork"
    output = folder / "output"
    code = _run(script, words, output)
    end.send((code, output.read_text(encoding="utf-8")))


def _in_child(
    script: Path, arguments: Sequence[str], environment: Mapping[str, str | None] | None = None, python: str = ""
) -> Any:
    """As `measuring.in_child`, in a process forked from this one."""
    assert not python, f"{script.name} needs an interpreter of its own"
    output = Path(f"output{os.getpid()}").resolve()
    if (child := os.fork()) == 0:
        os.environ.update({name: value for name, value in (environment or {}).items() if value is not None})
        os._exit(_run(script, arguments, output))
    _, status = os.waitpid(child, 0)
    text = output.read_text(encoding="utf-8")
    assert status == 0, text[-3000:]
    return json.loads(text.splitlines()[-1])


def _run(script: Path, words: Sequence[str], output: Path) -> int:
    """Run a script as the command line would, with what it prints in a file; gives the exit code."""
    sys.argv = [str(script), *words]
    with output.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as ended:
            return _exit_code(ended)
        except Exception:  # its traceback belongs to what the script printed
            traceback.print_exc()
            return 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
    return 0


def _exit_code(ended: SystemExit) -> int:
    if isinstance(ended.code, str):
        sys.stderr.write(ended.code)
        return 1
    return int(ended.code or 0)
