"""What is found of vLLM in an interpreter, and how one without it is reported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mindspeed_dpo.vllm_engine.interpreter import InterpreterProblem, engine_environment, inspect_interpreter
from tests.support.vllm_python import stand_in_python


def test_versions_and_problems_are_those_of_the_interpreter(tmp_path: Path) -> None:
    python = str(stand_in_python(tmp_path))
    found = inspect_interpreter(python, "MambaForCausalLM", {"model": "m", "max_model_length": 3})
    assert (found.vllm, found.platform) == ("0.0.stand-in", "cpu")
    assert found.problems[0] == "it has no model MambaForCausalLM"
    assert "max_model_length" in found.problems[1]
    assert inspect_interpreter(python, "LlamaForCausalLM", {"model": "m"}).problems == ()


def test_an_interpreter_that_is_not_there_or_has_no_vllm_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InterpreterProblem, match=r"vllm.python=/no/python cannot be run: No such file or directory"):
        inspect_interpreter("/no/python")
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')
    script.chmod(0o755)
    with pytest.raises(InterpreterProblem, match=r"cannot import vLLM: ModuleNotFoundError: No module named"):
        inspect_interpreter(str(script))


def test_variables_of_the_trainer_do_not_reach_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PYTHONPATH": "/trainer", "RANK": "3", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "VLLM_NO_USAGE_STATS": "0",
        "HTTP_PROXY": "p",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    environment = engine_environment({"VLLM_CPU_KVCACHE_SPACE": "2"})
    assert not {"PYTHONPATH", "RANK", "TORCH_DEVICE_BACKEND_AUTOLOAD"} & set(environment)
    assert environment["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0" and environment["VLLM_CPU_KVCACHE_SPACE"] == "2"
    # What the user has set stays.
    assert environment["VLLM_NO_USAGE_STATS"] == "0" and environment["HTTP_PROXY"] == "p"
