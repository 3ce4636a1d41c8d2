"""Starts a process on a fake NPU and reports in JSON what happened; the tests start it with arguments.

The fake torch_npu and MindSpeed behave as the real ones do where it hurts: MindSpeed parses `sys.argv`, resets the
root logger and the warning filters while it is imported.

python -m tests.unit.device.npu_startup_script --some-flag value
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

from tests.support.process_state import process_state

TORCH_NPU = """
import types, torch
torch.npu = types.SimpleNamespace(
    set_device=lambda rank: devices.append(rank), current_device=lambda: torch.device("cpu")
)
devices = []
"""
ADAPTOR = """
import logging, sys, warnings
seen = {
    "argv": list(sys.argv),
    "torch_npu_came_first": "torch_npu" in sys.modules,
    "megatron_came_later": not any(name.split(".")[0] == "megatron" for name in sys.modules),
}
logging.basicConfig(level=logging.DEBUG, force=True)
warnings.simplefilter("error")
def repatch(settings):
    seen["settings"] = dict(settings)
    warnings.simplefilter("ignore")
"""


def main() -> None:
    """Try the bring-up without libraries, with half of them, with all, and after megatron."""
    activate = importlib.import_module("mindspeed_dpo.device").activate
    importlib.import_module("mindspeed_dpo.workers.worker_process")
    report: dict[str, Any] = {"megatron_after_imports": _is_megatron_loaded()}
    logging.getLogger().addHandler(logging.NullHandler())
    before = process_state()
    sys.modules["torch_npu"] = None  # type: ignore[assignment]
    report["without_torch_npu"] = _failure(activate)
    with tempfile.TemporaryDirectory() as folder:
        sys.path.insert(0, folder)
        _write(folder, "torch_npu/__init__.py", TORCH_NPU)
        del sys.modules["torch_npu"]
        sys.modules["mindspeed"] = None  # type: ignore[assignment]
        report["without_mindspeed"] = _failure(activate)
        del sys.modules["mindspeed"]
        _write(folder, "mindspeed/__init__.py", "")
        _write(folder, "mindspeed/megatron_adaptor.py", ADAPTOR)
        importlib.invalidate_caches()
        accelerator = activate("npu", 5, {"seq_length": 77, "use_flash_attn": "overridden"})
    report["kind"] = accelerator.kind
    report["devices"] = importlib.import_module("torch_npu").devices
    report["seen"] = importlib.import_module("mindspeed.megatron_adaptor").seen
    report["unchanged"] = {name: value == before[name] for name, value in process_state().items()}
    sys.modules["megatron.core"] = types.ModuleType("megatron.core")
    report["after_megatron"] = _failure(activate)
    sys.stdout.write(json.dumps(report))


def _is_megatron_loaded() -> bool:
    return any(name.split(".")[0] == "megatron" for name in sys.modules)


def _failure(activate: Any) -> str:
    try:
        activate("npu")
    except RuntimeError as error:
        return str(error)
    return "no error"


def _write(folder: str, name: str, text: str) -> None:
    path = Path(folder, name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


if __name__ == "__main__":
    main()
