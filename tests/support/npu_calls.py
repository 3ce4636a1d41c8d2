"""What tests ask processes of the reference NPU, in a module of its own: a process imports what it is asked with.

The modules of the tests import much that these processes do not need.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mindspeed_dpo.workers.colocated_roles import ColocatedRoles


def number_of_calls() -> int:
    """Operator calls of this process so far."""
    return len(sys.modules["torch_npu"].calls)


def calls_since(count: int) -> list[tuple[str, dict[str, Any]]]:
    """Operator and options of each call of this process since its first `count`."""
    return [(call.operator, call.options) for call in sys.modules["torch_npu"].calls[count:]]


def calls_of_roles(_: ColocatedRoles) -> int:
    """As `number_of_calls`, for processes that have roles."""
    return number_of_calls()


def sizes_of_config(colocated: ColocatedRoles) -> tuple[int, int, bool]:
    """Of the actor's megatron-core configuration: heads, tensor-parallel size, whether lengths vary."""
    config = colocated.roles["actor"].engine.model.config
    return config.num_attention_heads, config.tensor_model_parallel_size, config.variable_seq_lengths


def let_prefixes_fail(fails: bool) -> None:
    """Let the attention of this process refuse lengths that differ, as a device might, or take them again."""
    library = sys.modules["torch_npu"]
    original = getattr(library.npu_fusion_attention, "original", library.npu_fusion_attention)

    def attention(*args: Any, **options: Any) -> Any:
        if options["actual_seq_qlen"] != options["actual_seq_kvlen"]:
            raise RuntimeError("Sq and Skv must be equal")
        return original(*args, **options)

    attention.original = original  # type: ignore[attr-defined]
    library.npu_fusion_attention = attention if fails else original
