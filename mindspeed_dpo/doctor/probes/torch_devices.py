"""Probe of torch. Argument: `kind`, which may be `auto`. Result: `torch` (its version), `kind` and `devices`."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from mindspeed_dpo.device import find_accelerator
from mindspeed_dpo.doctor.probe_processes import print_result, probe_arguments


def devices(kind: str) -> list[dict[str, Any]]:
    """Return name and memory in bytes of each visible device; empty for the CPU."""
    module = getattr(torch, kind, None)
    if kind == "cpu" or module is None:
        return []
    return [_device(module, index) for index in range(module.device_count())]


def _device(module: Any, index: int) -> dict[str, Any]:
    module.set_device(index)
    free, total = module.mem_get_info()
    return {"name": module.get_device_name(index), "free": free, "total": total}


if __name__ == "__main__":
    kind = find_accelerator(probe_arguments()["kind"]).kind
    if kind == "npu":
        # By name, because only `device` may import torch_npu, whose activation would also load MindSpeed.
        importlib.import_module("torch_npu")
    print_result({"torch": torch.__version__, "kind": kind, "devices": devices(kind)})
