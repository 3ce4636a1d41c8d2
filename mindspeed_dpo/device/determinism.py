"""The same bits every time, as far as a device's libraries can: on NPU what MindSpeed's own switch would do.

MindSpeed's `npu_deterministic` needs a part of Megatron that is not installed here. Unverified on a device.
"""

from __future__ import annotations

import os

import torch

from mindspeed_dpo.device.environment import REPEATABLE

ENVIRONMENT = {
    kind: {one.name: one.value for one in REPEATABLE if one.value is not None and kind in one.kinds}
    for kind in ("cpu", "cuda", "npu")
}


def make_deterministic(kind: str) -> None:
    """Ask for repeatable kernels and reductions; call it before the device is used. A user's own values win.

    An operator without a repeatable form warns: that should not stop a run.
    """
    for name, value in ENVIRONMENT[kind].items():
        os.environ.setdefault(name, value)
    torch.use_deterministic_algorithms(True, warn_only=True)
