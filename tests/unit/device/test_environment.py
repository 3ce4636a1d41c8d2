"""The environment of a process: what is set, that a user's own value wins, and which values are refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mindspeed_dpo
from mindspeed_dpo.device.environment_variables import (
    EnvironmentProblem,
    check_visible_devices,
    environment_rows,
    likely_kind,
    prepare,
    variables,
)
from tests.support.tokenizers import save_chat_tokenizer
from tests.unit.workers.rollouts import write_inputs

DEVICE_LIBRARIES = ("torch_npu", "mindspeed", "acl")
NAMES = {variable.name for kind in ("cpu", "cuda", "npu") for variable in variables(kind, 1, deterministic=True)}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {*NAMES, "PYTORCH_ALLOC_CONF", "ASCEND_LAUNCH_BLOCKING"}:
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)


def test_on_npu_each_default_is_set_and_what_is_left_is_not() -> None:
    prepare("npu", timeout_minutes=10)
    actual = {name: os.environ[name] for name in NAMES if name in os.environ}
    assert actual == {
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
        "CUDA_DEVICE_MAX_CONNECTIONS": "1",
        "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
        "TASK_QUEUE_ENABLE": "2",
        "HCCL_CONNECT_TIMEOUT": "1800",
        "HCCL_EXEC_TIMEOUT": "600",
    }


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_other_devices_get_no_variables_of_ascend(kind: str) -> None:
    prepare(kind)
    assert not [name for name in os.environ if name.startswith(("HCCL_", "PYTORCH_NPU")) or name == "TASK_QUEUE_ENABLE"]


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HCCL_EXEC_TIMEOUT", "PYTORCH_ALLOC_CONF", "CUDA_DEVICE_MAX_CONNECTIONS"):
        monkeypatch.setenv(name, "")
    prepare("npu", timeout_minutes=10)
    expected = {"HCCL_EXEC_TIMEOUT": "600", "CUDA_DEVICE_MAX_CONNECTIONS": "1"}
    assert {name: os.environ[name] for name in expected} == expected
    assert os.environ["PYTORCH_NPU_ALLOC_CONF"] == "expandable_segments:True"
    rows = {name: (value, owner) for name, value, owner, _ in environment_rows("npu", 10, {"HCCL_EXEC_TIMEOUT": ""})}
    assert rows["HCCL_EXEC_TIMEOUT"] == ("600", "set by the run")


def test_no_module_takes_an_empty_variable_for_a_value() -> None:
    """`os.environ.setdefault` does; `set_default` does not."""
    files = Path(mindspeed_dpo.__file__).parent.rglob("*.py")
    assert [file.name for file in files if "environ.setdefault" in file.read_text()] == []


def test_a_value_of_the_user_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HCCL_EXEC_TIMEOUT", "77")
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")
    monkeypatch.setenv("ASCEND_LAUNCH_BLOCKING", "1")
    prepare("npu")
    assert os.environ["HCCL_EXEC_TIMEOUT"] == "77"
    assert "PYTORCH_NPU_ALLOC_CONF" not in os.environ and "TASK_QUEUE_ENABLE" not in os.environ


@pytest.mark.parametrize("devices", ["1,0", "0, 1", "0,0", "0,,1", "all", "0,-1"])
def test_a_list_of_devices_that_the_runtime_would_cut_short_is_refused(
    devices: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", devices)
    with pytest.raises(EnvironmentProblem, match="list each device once, ascending"):
        prepare("npu")
    prepare("cpu")


@pytest.mark.parametrize("devices", ["0", "3", "0,1,2", "2,10", ""])
def test_a_list_that_is_read_completely_is_accepted(devices: str) -> None:
    check_visible_devices({"ASCEND_RT_VISIBLE_DEVICES": devices})


def test_the_table_for_people_says_whose_each_value_is() -> None:
    environment = {"TASK_QUEUE_ENABLE": "1", "PYTORCH_ALLOC_CONF": "x"}
    rows = {
        name: (value, whose) for name, value, whose, _ in environment_rows("npu", 45, environment, deterministic=True)
    }
    assert rows["TASK_QUEUE_ENABLE"] == ("1", "yours")
    assert rows["PYTORCH_NPU_ALLOC_CONF"] == ("unset", "replaced by your PYTORCH_ALLOC_CONF")
    assert rows["HCCL_EXEC_TIMEOUT"] == ("2700", "set by the run")
    assert rows["HCCL_IF_BASE_PORT"] == ("unset", "left to you")
    assert rows["HCCL_DETERMINISTIC"] == ("true", "set by the run")
    assert all(reason for *_, reason in environment_rows("npu", 45, {}))


def test_the_kind_of_a_device_is_detected_without_torch(tmp_path: Path) -> None:
    (tmp_path / "torch_npu.py").write_text("raise ImportError")
    code = (
        "import sys; from mindspeed_dpo.device.environment_variables import likely_kind; "
        "print(likely_kind('auto'), likely_kind('cuda'), 'torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    finished = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert finished.stdout.split() == ["npu", "cuda", "False"], finished.stderr
    assert likely_kind("npu") == "npu"


@pytest.mark.parametrize(
    "entry", ["import convert_ckpt", "import preprocess_data", "import mindspeed_dpo.controller.worker_group"]
)
def test_an_installed_torch_npu_without_its_libraries_stops_nothing_that_needs_no_device(
    entry: str, tmp_path: Path
) -> None:
    _install_broken_torch_npu(tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "TORCH_DEVICE_BACKEND_AUTOLOAD"}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])

    def fails(code: str) -> bool:
        return (
            subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=120).returncode
            != 0
        )

    assert fails("import torch"), "the broken torch_npu is not loaded by torch itself"
    assert not fails(entry)


def test_what_needs_no_device_imports_no_library_of_one(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    save_chat_tokenizer(tmp_path / "tokenizer")
    row = {"prompt": "What is the tallest mountain?", "chosen": "Mount Everest.", "rejected": "I do not know."}
    (tmp_path / "raw.jsonl").write_text("\n".join([json.dumps(row)] * 8), encoding="utf-8")
    libraries, trace = tmp_path / "libraries", tmp_path / "trace"
    libraries.mkdir()
    _install_broken_torch_npu(libraries)
    for name in DEVICE_LIBRARIES:
        text = f"open({str(trace)!r}, 'a').write({name!r})\nraise ImportError({name!r})\n"
        libraries.joinpath(f"{name}.py").write_text(text, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "TORCH_DEVICE_BACKEND_AUTOLOAD"}
    environment["PYTHONPATH"] = os.pathsep.join([str(libraries), *filter(None, sys.path)])
    command = [sys.executable, "-m", "tests.unit.device.without_device_libraries", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    codes = json.loads(done.stderr.splitlines()[-1])
    assert codes == {"preprocess": 0, "to Megatron-core": 0, "to Hugging Face": 0, "plan": 1}, done.stderr
    assert "error: too few devices: resource_pool requests actor_rollout: [2], and no node has 2 NPU" in done.stderr
    # Ray counts NPUs with CANN's library where there is one.
    assert set(re.findall("|".join(DEVICE_LIBRARIES), trace.read_text(encoding="utf-8"))) == {"acl"}


def _install_broken_torch_npu(folder: Path) -> None:
    """A torch_npu whose shared libraries are missing, registered as its wheel registers it."""
    (folder / "torch_npu.py").write_text("raise ImportError('libhccl.so: cannot open shared object file')\n")
    facts = folder / "torch_npu-2.7.1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: torch_npu\nVersion: 2.7.1\n")
    (facts / "entry_points.txt").write_text("[torch.backends]\ntorch_npu = torch_npu:_autoload\n")
