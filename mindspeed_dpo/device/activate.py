"""Start-up of a process on its device, in the one order that works: device first, megatron after.

What each device needs is in its own module; here is only the order: environment, libraries and their patches, device,
operators. Process groups, parallel state and random generators follow in `parallel.groups`, with the backend named by
the accelerator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindspeed_dpo.device import cpu, environment, npu
from mindspeed_dpo.device.accelerator import Accelerator, find_accelerator
from mindspeed_dpo.device.host_memory import keep_freed_memory
from mindspeed_dpo.device.ops import kernels


def activate(
    kind: str,
    local_rank: int = 0,
    megatron_settings: Mapping[str, Any] | None = None,
    timeout_minutes: float = 45,
) -> Accelerator:
    """Bring this process up on its device; call it before the first megatron import.

    Args:
        kind: `auto`, `cpu`, `cuda` or `npu`.
        local_rank: Index of this process's device among the visible ones.
        megatron_settings: What MindSpeed's `repatch` is told, on NPU only.
        timeout_minutes: How long a collective may take.

    Returns:
        The accelerator, ready for `torch.distributed.init_process_group`.

    Raises:
        RuntimeError: The device's libraries are missing or refuse to load.
    """
    accelerator = find_accelerator(kind)
    environment.prepare(accelerator.kind, timeout_minutes)
    library = npu.bring_up(megatron_settings or {}) if accelerator.kind == "npu" else None
    if accelerator.kind == "cpu":
        cpu.install()
        keep_freed_memory()
    accelerator.set_device(local_rank)
    kernels.use(None if library is None else kernels.Kernels(library, accelerator.device().type))
    return accelerator
