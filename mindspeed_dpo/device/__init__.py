"""The accelerator: start-up of a process on its device, device properties, and operators with plain definitions.

`activate` is the first call of a worker process. torch_npu and MindSpeed are imported in this package only. The names
below are imported on first use, since modules such as `environment_variables` are also used where torch is not
needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mindspeed_dpo.device.accelerator import Accelerator, find_accelerator
    from mindspeed_dpo.device.start_up import activate

__all__ = ["Accelerator", "activate", "find_accelerator"]


def __getattr__(name: str) -> Any:
    # Deferred: both modules import torch. `activate` also imports the start-up of every device, which a process that
    # only looks at properties does not need.
    if name == "activate":
        from mindspeed_dpo.device.start_up import activate

        return activate
    if name in __all__:
        from mindspeed_dpo.device import accelerator

        return getattr(accelerator, name)
    raise AttributeError(f"{__name__} has no {name}")
