"""The child process: what it sees, how it dies, and that it never outlives its parent."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mindspeed_dpo.workers.rewards.sandbox import IsolatedFunctions
from mindspeed_dpo.workers.rewards.sandbox_output_log import INTERVAL_BYTES
from mindspeed_dpo.workers.rewards.sandbox_replies import CallFailed
from tests.support.commands import until
from tests.support.process_signals import ends
from tests.unit.workers.rewards.sample_rollouts import FUNCTIONS

GONE_WITHIN_S = 60
NAMES = (
    "length", "hanging", "dying", "killed", "leaving", "shouting", "process_ids", "sees_torch", "starts_a_program",
    "has_main_thread", "awaited", "starts_a_daemon",
)  # fmt: skip


@pytest.fixture(scope="module")
def functions() -> Iterator[IsolatedFunctions]:
    started = IsolatedFunctions([f"{FUNCTIONS}.{name}" for name in NAMES], timeout_s=60)
    yield started
    started.close()


def call(functions: IsolatedFunctions, name: str, prompt: str = "good", completions: tuple[str, ...] = ("ab", "c")):
    return functions.call(
        f"{FUNCTIONS}.{name}", {"prompts": [prompt] * len(completions), "completions": completions, "labels": [1, 2]}
    )


def test_functions_run_in_another_process_without_torch_on_its_main_thread(functions: IsolatedFunctions) -> None:
    (child, _) = call(functions, "process_ids")
    assert child != os.getpid()
    assert call(functions, "process_ids") == [child, child]
    assert call(functions, "sees_torch") == [0, 0]
    assert call(functions, "has_main_thread") == [1, 1]
    assert call(functions, "awaited") == [2, 1]


def test_what_a_function_prints_is_no_message(functions: IsolatedFunctions, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(functions, "shouting") == [2, 1]
    assert call(functions, "length") == [2, 1]


def test_a_log_holds_a_bounded_part_of_what_a_function_prints_or_raises(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    # A process of its own, whose budget no other test has used.
    functions = IsolatedFunctions([f"{FUNCTIONS}.{name}" for name in ("chatty", "raising_much")], timeout_s=60)
    assert call(functions, "chatty") == [2, 1]
    with pytest.raises(CallFailed, match=r"raised ValueError: x+$") as failure:
        call(functions, "raising_much")
    assert len(str(failure.value)) < 300
    until(lambda: "printed line 0" in caplog.text, "the first line of the output", GONE_WITHIN_S)
    assert sum(len(record.getMessage()) for record in caplog.records) < 2 * INTERVAL_BYTES
    functions.close()


def test_large_messages_pass(functions: IsolatedFunctions) -> None:
    assert call(functions, "length", completions=("x" * 3_000_000, "ä\ud800")) == [3_000_000, 2]


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("dying", r"ended its process \(exit code 7\)"),
        ("killed", r"ended its process \(signal 9\)"),
    ],
)
def test_a_process_that_dies_is_started_again(functions: IsolatedFunctions, name: str, cause: str) -> None:
    (before, _) = call(functions, "process_ids")
    with pytest.raises(CallFailed, match=cause) as failure:
        call(functions, name, "bad")
    assert failure.value.is_lost
    assert call(functions, name) == [2, 1]
    (after, _) = call(functions, "process_ids")
    assert before != after and ends(int(float(before)), GONE_WITHIN_S)


@pytest.mark.parametrize("program", ["starts_a_program", "starts_a_daemon"])
def test_programs_of_a_process_that_died_end_too(program: str) -> None:
    mortal = IsolatedFunctions([f"{FUNCTIONS}.{name}" for name in (program, "dying")], timeout_s=60)
    (started, _) = call(mortal, program)
    with pytest.raises(CallFailed, match="exit code 7"):
        call(mortal, "dying", "bad")
    assert ends(int(float(started)), GONE_WITHIN_S)
    mortal.close()


def test_leaving_the_interpreter_is_an_error_like_any_other(functions: IsolatedFunctions) -> None:
    before = call(functions, "process_ids")
    with pytest.raises(CallFailed, match="raised SystemExit: 3") as failure:
        call(functions, "leaving", "bad")
    assert not failure.value.is_lost
    assert call(functions, "process_ids") == before


def test_a_call_that_hangs_is_ended_and_the_process_started_again() -> None:
    short = IsolatedFunctions([f"{FUNCTIONS}.hanging", f"{FUNCTIONS}.process_ids"], timeout_s=3)
    (before, _) = call(short, "process_ids")
    with pytest.raises(CallFailed, match="did not return within 3 s") as failure:
        call(short, "hanging", "bad")
    assert failure.value.is_lost
    assert ends(int(float(before)), GONE_WITHIN_S)
    assert call(short, "hanging") == [2, 1]
    short.close()


def test_the_process_and_what_it_started_end_when_it_is_let_go() -> None:
    names = ("process_ids", "starts_a_program", "starts_a_daemon")
    short = IsolatedFunctions([f"{FUNCTIONS}.{name}" for name in names], timeout_s=60)
    started = [int(float(call(short, name)[0])) for name in names]
    del short
    assert all(ends(pid, GONE_WITHIN_S) for pid in started)


PARENT = f"""
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
from mindspeed_dpo.workers.rewards.sandbox_output_log import INTERVAL_BYTES
from mindspeed_dpo.workers.rewards.sandbox import IsolatedFunctions
names = ["{FUNCTIONS}." + name for name in ("process_ids", "starts_a_program", "starts_a_daemon", "hanging")]
functions = IsolatedFunctions(names, timeout_s=600)
for name in names[:3]:
    print(int(functions.call(name, {{"completions": ["a"]}})[0]), flush=True)
if sys.argv[1] == "hanging":
    functions.call(names[3], {{"prompts": ["bad"], "completions": ["a"]}})
print("waits", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("with_children", [False, True], ids=["alone", "with its children, as Ray does"])
@pytest.mark.parametrize("state", ["hanging", "waiting"])
def test_no_process_outlives_a_parent_that_is_killed(state: str, with_children: bool) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, state], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        started = [int(parent.stdout.readline()) for _ in range(3)]
        assert parent.stdout.readline().strip() == {"hanging": "hangs", "waiting": "waits"}[state]
        children = psutil.Process(parent.pid).children() if with_children else []
        for process in (parent, *children):
            process.kill()
        assert all(ends(pid, GONE_WITHIN_S) for pid in started)


def test_all_functions_that_cannot_be_used_are_named() -> None:
    with pytest.raises(ValueError) as error:
        IsolatedFunctions([f"{FUNCTIONS}.absent", f"{FUNCTIONS}.length", "nowhere.f"], timeout_s=60)
    assert f"{FUNCTIONS}.absent cannot be imported: {FUNCTIONS} has no absent" in str(error.value)
    assert "nowhere.f cannot be imported: there is no module nowhere in /" in str(error.value)
    assert "length" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("def f(:", "broken.f cannot be imported: SyntaxError: "),
        ("import absent_library", "broken.f cannot be imported: ModuleNotFoundError: No module named 'absent_library'"),
        ("{}['key']", "broken.f cannot be imported: KeyError: 'key'"),
        ("raise SystemExit(2)", "broken.f cannot be imported: SystemExit: 2"),
        ("import os; os._exit(5)", r"broken.f: the import ended its process \(exit code 5\)"),
    ],
)
def test_a_module_that_cannot_be_imported_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, sentence: str
) -> None:
    (tmp_path / "broken.py").write_text(source, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=sentence):
        IsolatedFunctions(["broken.f"], timeout_s=60)


def test_the_working_directory_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A module of this name is installed too.
    (tmp_path / "psutil.py").write_text("def mine(completions): return [7.0] * len(completions)", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    actual = IsolatedFunctions(["psutil.mine"], timeout_s=60)
    assert actual.call("psutil.mine", {"completions": ["a"]}) == [7]
    actual.close()
