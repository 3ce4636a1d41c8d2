"""The accelerator: start-up of a process on its device, device properties, and operators with plain definitions.

`activate` is the first call of a worker process. torch_npu and MindSpeed are imported in this package only. The names
below are imported on first use, since modules such as `environment` are also used where torch is not needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mindspeed_dpo.device.accelerator import Accelerator, find_accelerator
    from mindspeed_dpo.device.activate import activate

__all__ = ["Accelerator", "activate", "find_accelerator"]

_MODULES = {"Accelerator": "accelerator", "activate": "activate", "find_accelerator": "accelerator"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"{__name__} has no {name}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    # Importing the module `activate` has bound the name to the module.
    globals()[name] = value
    return value
