"""Deterministic kernels and reductions, as far as the device's libraries support them.

On NPU this sets what MindSpeed's `npu_deterministic` sets, which itself needs a part of Megatron that is not a
dependency. Unverified on a device.
"""

from __future__ import annotations

import torch

from mindspeed_dpo.device.environment_variables import DETERMINISTIC, set_default

ENVIRONMENT = {
    kind: {one.name: one.value for one in DETERMINISTIC if one.value is not None and kind in one.kinds}
    for kind in ("cpu", "cuda", "npu")
}


def make_deterministic(kind: str) -> None:
    """Enable deterministic kernels and reductions; call it before the device is used.

    Variables that the user has set are not changed. An operator without a deterministic form only warns.
    """
    for name, value in ENVIRONMENT[kind].items():
        set_default(name, value)
    torch.use_deterministic_algorithms(True, warn_only=True)
