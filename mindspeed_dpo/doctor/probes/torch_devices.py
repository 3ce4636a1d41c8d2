"""torch's version and the devices it sees; asked is `kind`, `auto` included."""

from __future__ import annotations

import importlib
from typing import Any

from mindspeed_dpo.doctor.processes import answer, question


def devices(torch: Any, kind: str) -> list[dict[str, Any]]:
    """Name and memory in bytes of each visible device; none for the CPU."""
    module = getattr(torch, kind, None)
    if kind == "cpu" or module is None:
        return []
    return [_device(module, number) for number in range(module.device_count())]


def _device(module: Any, number: int) -> dict[str, Any]:
    module.set_device(number)
    free, total = module.mem_get_info()
    return {"name": module.get_device_name(number), "free": free, "total": total}


if __name__ == "__main__":
    torch = importlib.import_module("torch")
    kind = importlib.import_module("mindspeed_dpo.device").find_accelerator(question()["kind"]).kind
    if kind == "npu":
        # torch brings it along by itself only where it was not told otherwise; see `loads` for the import by name.
        importlib.import_module("torch_npu")
    answer({"torch": torch.__version__, "kind": kind, "devices": devices(torch, kind)})
