"""Estimate of the memory that a role needs on one device. Parameters are exact, activations a rough upper bound.

Bytes per parameter on a device:

    weights    2 in bfloat16, else 4
    gradients  4, float32 (trained roles)
    optimizer  8 for Adam's moments, and 4 for float32 weights with bf16; with use_distributed_optimizer divided by the
               data-parallel and the context-parallel size

With adapters, only these have gradients and optimizer state, in addition to the model's weights. Of routed experts all
devices of a stage that hold the same ones are copies.

Activations per layer and token without recomputation, in elements, with h = hidden_size and t = tensor-parallel size:
4h (inputs and outputs of attention and feed-forward layer, /t with sequence_parallel) + (2 heads + 2 groups) x
kv_channels / t (queries, keys, values, attention output) + 3 ffn_hidden_size / t (both parts of SwiGLU, their product).
With experts, a token has 3 moe_ffn_hidden_size + 2h for each of its experts, if these have equal loads.
Recomputation of complete layers stores h for every layer, and everything for one layer. The first pipeline stage holds
as many micro-batches as there are stages, p; with v virtual stages per device (p - 1) / v more. A micro-batch has
micro_batch_tokens tokens (a longer pair has more), else 2 seq_length per pair; context-parallel devices share them.
"""

from __future__ import annotations

from mindspeed_dpo.config.estimates.adapter_parameter_counts import num_adapter_parameters, num_merged_elements
from mindspeed_dpo.config.estimates.parameter_counts import (
    num_device_parameters,
    num_parameters,
    num_trained_expert_parameters,
    num_trained_parameters,
)
from mindspeed_dpo.config.run import RoleConfig

SEQUENCES_PER_PAIR = 2


def weight_bytes(role: RoleConfig) -> int:
    """Bytes of a role's weights on one device, without adapters."""
    return num_device_parameters(role) * _element_bytes(role)


def adapter_bytes(role: RoleConfig) -> int:
    """Bytes of a trained role's adapters on one device."""
    return num_trained_parameters(role) * _element_bytes(role) if role.adapters.is_on else 0


def merged_bytes(role: RoleConfig) -> int:
    """Bytes on one device of the copies of matrices that are merged with their adapters for the rollout."""
    return num_merged_elements(role) * _element_bytes(role)


def gradient_bytes(role: RoleConfig) -> int:
    """Bytes of a trained role's gradients on one device."""
    return 4 * num_trained_parameters(role)


def optimizer_bytes(role: RoleConfig, data_parallel_size: int) -> int:
    """Bytes of a trained role's optimizer state on one device."""
    per_parameter = 12 if role.precision.bf16 else 8
    parallel, experts = role.parallel, num_trained_expert_parameters(role)
    copies = max(1, data_parallel_size) * parallel.context_parallel_size
    # All devices of a stage that hold the same experts are copies, tensor-parallel ones included.
    expert_copies = max(1, copies * parallel.tensor_model_parallel_size // parallel.expert_parallel_size)
    shards, expert_shards = (copies, expert_copies) if parallel.use_distributed_optimizer else (1, 1)
    others = num_trained_parameters(role) - experts
    return per_parameter * others // shards + per_parameter * experts // expert_shards


def checkpoint_bytes(role: RoleConfig, *, with_reference: bool = False) -> int:
    """Bytes of one checkpoint of a trained role on disk, over all processes.

    Args:
        role: The trained role.
        with_reference: The checkpoint also holds the weights of a reference that is updated.
    """
    total = num_parameters(role.model, scalar_head=role.has_score_head)
    if role.adapters.is_on:
        total = num_adapter_parameters(role) + (role.model.hidden_size if role.has_score_head else 0)
    # Adapters are written a second time for PEFT.
    copies = 1 + role.adapters.is_on + with_reference
    # Adam's moments and float32 weights, whatever the number format.
    optimizer = 0 if role.checkpoint.no_save_optim else 12
    return total * (copies * _element_bytes(role) + optimizer)


def cache_bytes(role: RoleConfig, num_tokens: int) -> int:
    """Bytes of the keys and values of a number of tokens on one device."""
    model, tp = role.model, role.parallel.tensor_model_parallel_size
    elements = 2 * model.num_layers * model.num_query_groups * model.kv_channels * num_tokens
    return elements * _element_bytes(role) // tp


def activation_bytes(role: RoleConfig) -> int:
    """Approximate upper bound of the activation bytes of a trained role on one device."""
    model, parallel = role.model, role.parallel
    tp, pp = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    pairs = role.batch.micro_batch_size or 1
    tokens = role.batch.micro_batch_tokens or SEQUENCES_PER_PAIR * pairs * role.data.seq_length
    rows = tokens // parallel.context_parallel_size
    residual = model.hidden_size // (tp if parallel.sequence_parallel else 1)
    attention = (2 * model.num_attention_heads + 2 * model.num_query_groups) * model.kv_channels
    inner = 3 * model.ffn_hidden_size
    if model.has_experts:
        of_expert = 3 * model.moe_ffn_hidden_size + 2 * model.hidden_size
        inner = max(inner, model.moe_router_topk * of_expert + 3 * model.moe_shared_expert_intermediate_size)
    layer = 4 * residual + (attention + inner) // tp
    layers = model.num_layers // pp
    is_full = role.recompute.recompute_granularity == "full"
    per_row = layers * residual + layer if is_full else layers * layer
    num_micro_batches = pp + (pp - 1) / role.num_chunks if role.num_chunks > 1 else pp
    return int(rows * per_row * num_micro_batches) * _element_bytes(role)


def _element_bytes(role: RoleConfig) -> int:
    return 2 if role.precision.bf16 else 4
