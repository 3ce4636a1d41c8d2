"""Limits of attention on NPU that the model of a role must keep."""

from __future__ import annotations

from collections.abc import Iterator

from mindspeed_dpo.config.issues import Violation
from mindspeed_dpo.config.run import RoleConfig, RunConfig

NPU_MAX_HEAD_WIDTH = 768
"""Largest head width that attention of torch_npu 2.13.0 accepts; the width must also be even."""
NPU_MAX_HEADS = 256
"""Largest number of attention heads per device that torch_npu 2.13.0 accepts."""


def check_npu_limits(role: RoleConfig, run: RunConfig) -> Iterator[Violation]:
    """Check that, with `device=npu`, head width and heads per device are within the limits of torch_npu.

    `device.ops.operator_limits` checks each call against the same limits, which also covers runs with `device=auto`.
    """
    if run.loop.device != "npu":
        return
    width, heads = role.model.kv_channels, role.model.num_attention_heads
    # Context-parallel devices share the heads during attention.
    per_device = heads // (role.parallel.tensor_model_parallel_size * role.parallel.context_parallel_size)
    if width > NPU_MAX_HEAD_WIDTH or width % 2:
        yield Violation(
            ("kv_channels", "hidden_size", "num_attention_heads", "device"),
            f"is not supported with device=npu: the width of a head must be even and at most {NPU_MAX_HEAD_WIDTH}; "
            "use another model",
        )
    if per_device > NPU_MAX_HEADS:
        yield Violation(
            ("tensor_model_parallel_size", "num_attention_heads", "device"),
            f"gives each device {per_device} attention heads; device=npu supports at most {NPU_MAX_HEADS}; raise it",
        )
