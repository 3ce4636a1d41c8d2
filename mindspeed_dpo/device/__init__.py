"""The accelerator: start-up order, the face the rest of the code sees, and operators with plain references.

`activate` is the first thing a worker process does; torch_npu and MindSpeed are imported nowhere else. The names below
come when they are asked for, because what only tells a plan, such as `environment`, should not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mindspeed_dpo.device.accelerator import Accelerator, find_accelerator
    from mindspeed_dpo.device.activate import activate

__all__ = ["Accelerator", "activate", "find_accelerator"]

_HOMES = {"Accelerator": "accelerator", "activate": "activate", "find_accelerator": "accelerator"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"{__name__} has no {name}")
    found = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    # The import of a module of the same name has put that module here.
    globals()[name] = found
    return found
