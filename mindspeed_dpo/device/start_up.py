"""Start-up of a process on its device, before megatron-core is imported.

This module fixes the order: environment, libraries and their patches, device, operators. The steps of each device are
in its own module. Process groups, parallel state and random generators follow in `parallel.process_groups`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindspeed_dpo.device import cpu, environment_variables, npu
from mindspeed_dpo.device.accelerator import Accelerator, find_accelerator
from mindspeed_dpo.device.host_allocator import keep_freed_memory
from mindspeed_dpo.device.ops import kernels


def activate(
    kind: str,
    local_rank: int = 0,
    megatron_settings: Mapping[str, Any] | None = None,
    timeout_minutes: float = 45,
) -> Accelerator:
    """Activate the device of this process; call it before the first megatron import.

    Args:
        kind: `auto`, `cpu`, `cuda` or `npu`.
        local_rank: Index of this process's device among the visible ones.
        megatron_settings: Settings for MindSpeed's `repatch`, used on NPU only.
        timeout_minutes: Limit for a collective.

    Returns:
        The accelerator, ready for `torch.distributed.init_process_group`.

    Raises:
        RuntimeError: The device's libraries are missing or fail to load.
    """
    accelerator = find_accelerator(kind)
    environment_variables.prepare(accelerator.kind, timeout_minutes)
    library = npu.initialize(megatron_settings or {}) if accelerator.kind == "npu" else None
    if accelerator.kind == "cpu":
        cpu.install()
        keep_freed_memory()
    accelerator.set_device(local_rank)
    kernels.use(None if library is None else kernels.Kernels(library, accelerator.device().type))
    return accelerator
