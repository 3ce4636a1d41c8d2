"""Numbers of parameters of LoRA adapters, and of the matrices that have them, on a device or of a complete model.

An adapter of a matrix [out, in] has r (in + out) parameters; the dimension along which tensor-parallel devices split
the matrix is divided by their number. Every routed expert has adapters of its own, which are shared like the experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mindspeed_dpo.config.settings.lora import DOWN, FUSED_MODULES, GATE_UP
from mindspeed_dpo.config.settings.model import ModelConfig

if TYPE_CHECKING:
    # The converter counts parameters, and has no configuration of a run.
    from mindspeed_dpo.config.run import RoleConfig

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def num_adapter_parameters(role: RoleConfig) -> int:
    """Return the number of parameters of all adapters of a role."""
    layers, experts = range(role.model.num_layers), role.model.num_experts or 0
    return _of_linear(role, layers, tp=1) + _of_experts(role, layers, experts)


def stage_adapter_parameters(role: RoleConfig) -> list[tuple[int, int]]:
    """Return for each pipeline stage the parameters of adapters on a device: of linear layers, and of experts."""
    model, tp = role.model, role.parallel.tensor_model_parallel_size
    experts = (model.num_experts or 0) // role.parallel.expert_parallel_size
    return [(_of_linear(role, stage, tp), _of_experts(role, stage, experts)) for stage in stages(role)]


def num_merged_elements(role: RoleConfig) -> int:
    """Return the elements on a device of the copies of matrices that are merged with their adapters for the rollout."""
    model, parallel = role.model, role.parallel
    return max(
        _merged_linear(role, stage) // parallel.tensor_model_parallel_size
        + _merged_experts(role, stage, (model.num_experts or 0) // parallel.expert_parallel_size)
        for stage in stages(role)
    )


def stages(role: RoleConfig) -> list[range]:
    """Return the layers of each pipeline stage."""
    depth = role.model.num_layers // role.parallel.pipeline_model_parallel_size
    return [range(first, first + depth) for first in range(0, role.model.num_layers, depth)]


def _widths(model: ModelConfig, layers: range) -> Iterator[int]:
    """The width of the dense feed-forward layer, or of the shared experts, of each layer that has one."""
    for layer in layers:
        width = model.moe_shared_expert_intermediate_size if model.is_moe_layer(layer) else model.ffn_hidden_size
        if width:
            yield width


def _of_linear(role: RoleConfig, layers: range, tp: int) -> int:
    model, modules = role.model, role.adapters.modules
    hidden, width = model.hidden_size, model.kv_channels
    queries, keys = model.num_attention_heads * width // tp, model.num_query_groups * width // tp
    attention = dict(zip(_ATTENTION, (hidden + queries, hidden + keys, hidden + keys, queries + hidden), strict=True))
    total = len(layers) * sum(attention.get(module, 0) for module in modules)
    num_others = sum(module not in attention for module in modules)
    total += num_others * sum(hidden + inner // tp for inner in _widths(model, layers))
    return role.adapters.lora_r * total


def _of_experts(role: RoleConfig, layers: range, experts: int) -> int:
    model, ranks = role.model, role.adapters.expert_ranks
    hidden, width = model.hidden_size, model.moe_ffn_hidden_size
    of_expert = ranks.get(GATE_UP, 0) * (hidden + 2 * width) + ranks.get(DOWN, 0) * (width + hidden)
    return sum(map(model.is_moe_layer, layers)) * experts * of_expert


def _merged_linear(role: RoleConfig, layers: range) -> int:
    model = role.model
    hidden, heads, groups = model.hidden_size, model.num_attention_heads, model.num_query_groups
    inner = sum(_widths(model, layers))
    sizes = {
        "linear_qkv": len(layers) * hidden * (heads + 2 * groups) * model.kv_channels,
        "linear_proj": len(layers) * hidden * heads * model.kv_channels,
        "linear_fc1": 2 * hidden * inner,
        "linear_fc2": hidden * inner,
    }
    return sum(size for fused, size in sizes.items() if set(FUSED_MODULES[fused]) & set(role.adapters.modules))


def _merged_experts(role: RoleConfig, layers: range, experts: int) -> int:
    model, ranks = role.model, role.adapters.expert_ranks
    matrices = 2 * (GATE_UP in ranks) + (DOWN in ranks)
    return sum(map(model.is_moe_layer, layers)) * experts * matrices * model.hidden_size * model.moe_ffn_hidden_size
