"""Numbers of parameters: of a model, of a layer, on one device, and of those that are trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mindspeed_dpo.config.estimates.adapter_parameter_counts import stage_adapter_parameters
from mindspeed_dpo.config.settings.model import ModelConfig

if TYPE_CHECKING:
    # The converter counts parameters, and has no configuration of a run.
    from mindspeed_dpo.config.run import RoleConfig


def num_layer_parameters(model: ModelConfig, tp: int = 1, experts: int | None = None) -> int:
    """Return the number of parameters of one layer on one of `tp` devices.

    Args:
        model: The architecture.
        tp: Tensor-parallel size.
        experts: Number of routed experts that count, of a layer with experts; None for a dense layer.
    """
    hidden, width = model.hidden_size, model.kv_channels
    queries, heads = model.num_attention_heads * width, model.num_attention_heads + 2 * model.num_query_groups
    inner = model.ffn_hidden_size if experts is None else model.moe_shared_expert_intermediate_size
    sharded = hidden * heads * width + queries * hidden + 3 * hidden * inner
    sharded += heads * width if model.add_qkv_bias else 0
    replicated = 2 * hidden + (2 * width if model.qk_layernorm else 0)
    if experts is not None:
        replicated += hidden * ((model.num_experts or 0) + model.shared_expert_gate)
        replicated += experts * 3 * hidden * model.moe_ffn_hidden_size
    return sharded // tp + replicated


def num_layers_parameters(model: ModelConfig, layers: range, tp: int = 1, experts: int | None = None) -> int:
    """Return the number of parameters of some layers on one of `tp` devices.

    Args:
        model: The architecture.
        layers: The layers, counted from 0.
        tp: Tensor-parallel size.
        experts: Number of routed experts that count in each layer with experts; None counts all.
    """
    experts = model.num_experts if experts is None else experts
    with_experts = sum(map(model.is_moe_layer, layers))
    dense = (len(layers) - with_experts) * num_layer_parameters(model, tp)
    return dense + (with_experts * num_layer_parameters(model, tp, experts) if with_experts else 0)


def num_parameters(model: ModelConfig, *, scalar_head: bool = False, experts: int | None = None) -> int:
    """Return the number of parameters of a complete model, without padding of the vocabulary.

    Args:
        model: The architecture.
        experts: Number of routed experts that count in each layer with experts; None counts all.
        scalar_head: Count a scalar output layer, as of a reward model, instead of the output layer of the policy.
    """
    table, hidden = model.vocab_size * model.hidden_size, model.hidden_size
    output = table if model.untie_embeddings_and_output_weights else 0
    layers = num_layers_parameters(model, range(model.num_layers), experts=experts)
    return layers + table + hidden + (hidden if scalar_head else output)


def num_device_parameters(role: RoleConfig) -> int:
    """Return the number of parameters of a role on a device of the largest pipeline stage."""
    model, tp, pp = role.model, role.parallel.tensor_model_parallel_size, role.parallel.pipeline_model_parallel_size
    depth, experts = model.num_layers // pp, num_local_experts(role)
    stages = [range(first, first + depth) for first in range(0, model.num_layers, depth)]
    layers = max(num_layers_parameters(model, stage, tp, experts) for stage in stages)
    table = model.padded_vocab(tp) // tp * model.hidden_size
    # A tied output layer is the embedding; with several stages the last one has a copy.
    output = table if model.untie_embeddings_and_output_weights or pp > 1 else 0
    last = model.hidden_size + (model.hidden_size // tp if role.has_score_head else output)
    return layers + (table + last if pp == 1 else max(table, last))


def num_device_expert_parameters(role: RoleConfig) -> int:
    """Return the number of parameters of routed experts on a device of the pipeline stage that has most of them."""
    model, depth = role.model, role.model.num_layers // role.parallel.pipeline_model_parallel_size
    num_layers = max(
        sum(map(model.is_moe_layer, range(first, first + depth))) for first in range(0, model.num_layers, depth)
    )
    return num_layers * num_local_experts(role) * 3 * model.hidden_size * model.moe_ffn_hidden_size


def num_local_experts(role: RoleConfig) -> int:
    """Return the number of experts of a layer on one device; 0 without experts."""
    return (role.model.num_experts or 0) // role.parallel.expert_parallel_size


def num_trained_parameters(role: RoleConfig) -> int:
    """Return the number of parameters that the optimizer updates, on a device of the largest pipeline stage."""
    if not role.adapters.is_on:
        return num_device_parameters(role)
    # The score head of a reward model is trained beside its adapters.
    head = role.model.hidden_size // role.parallel.tensor_model_parallel_size if role.has_score_head else 0
    return max(map(sum, stage_adapter_parameters(role))) + head


def num_trained_expert_parameters(role: RoleConfig) -> int:
    """Return how many of them belong to routed experts."""
    if not role.adapters.is_on:
        return num_device_expert_parameters(role)
    return max(stage_adapter_parameters(role), key=sum)[1]
