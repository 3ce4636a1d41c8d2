"""What operators of torch_npu do not take, as far as it follows from settings: told before a device is taken.

`device.ops.limits` holds each call to the same figures, which are those of the vendor's documentation in the wheel of
torch_npu 2.13.0. A run with `device=auto` is told by the process that meets them.
"""

from __future__ import annotations

from collections.abc import Iterator

from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.validation.violation import Violation

ATTENTION_WIDTH = 768
"""Of a head."""
ATTENTION_HEADS = 256
"""On one device."""


def check_on_npu(role: RoleConfig, run: RunConfig) -> Iterator[Violation]:
    """The role's heads are such that attention and rotation of `device=npu` take them."""
    if run.loop.device != "npu":
        return
    width, heads = role.model.kv_channels, role.model.num_attention_heads
    # Context-parallel devices divide the heads too, as long as attention lasts.
    here = heads // (role.parallel.tensor_model_parallel_size * role.parallel.context_parallel_size)
    if width > ATTENTION_WIDTH or width % 2:
        yield Violation(
            ("kv_channels", "hidden_size", "num_attention_heads", "device"),
            f"is no width of a head that device=npu takes: an even one up to {ATTENTION_WIDTH}; use another model",
        )
    if here > ATTENTION_HEADS:
        yield Violation(
            ("tensor_model_parallel_size", "num_attention_heads", "device"),
            f"leaves {here} heads to a device, of which device=npu takes {ATTENTION_HEADS} at most; raise it",
        )
