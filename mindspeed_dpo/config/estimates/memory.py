"""How large a model is and what it takes on one device. Parameters are exact; activations are a rough upper bound.

Bytes per parameter on a device:

    weights    2 in bfloat16, else 4
    gradient   4, float32 (trained roles)
    optimizer  8 for Adam's moments, 4 more for float32 weights beside bfloat16 ones; divided by the data-parallel size
               and the context-parallel size with use_distributed_optimizer

With adapters only they have gradient and optimizer state, and the weights are there besides. An adapter of a matrix
[out, in] has r (in + out) parameters; the side along which the matrix is split is divided by the tensor-parallel size.

Activations of a layer and token without recomputation, h = hidden_size, t = tensor-parallel size, in elements:
4h (inputs and outputs of both halves, /t with sequence_parallel) + (2 heads + 2 groups) x kv_channels / t (queries,
keys, values, attention output) + 3 ffn_hidden_size / t (both halves of the gate, their product). Recomputation of whole
layers keeps h of every layer and all of one layer. A pipeline's first stage holds as many micro-batches as there are
stages, p; with v virtual stages a device (p - 1) / v more. Tokens of a micro-batch: micro_batch_tokens, though a longer
pair takes more; else 2 seq_length for each pair. Context-parallel devices share them.
"""

from __future__ import annotations

from typing import NamedTuple

from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.config.settings.lora import FUSED_MODULES
from mindspeed_dpo.config.settings.model import ModelConfig

PAIR = 2
"""Sequences of a pair."""


def layer_parameters(model: ModelConfig, tp: int = 1) -> int:
    """Parameters of one layer on one of `tp` devices."""
    hidden, width = model.hidden_size, model.kv_channels
    queries, attention = model.num_attention_heads * width, (model.num_attention_heads + 2 * model.num_query_groups)
    split = hidden * attention * width + queries * hidden + 3 * hidden * model.ffn_hidden_size
    split += attention * width if model.add_qkv_bias else 0
    whole = 2 * hidden + (2 * width if model.qk_layernorm else 0)
    return split // tp + whole


def parameters(model: ModelConfig, *, scores: bool = False) -> int:
    """Parameters of the whole model, without padded rows of the vocabulary; with a scalar head where it `scores`."""
    table, hidden = model.vocab_size * model.hidden_size, model.hidden_size
    output = table if model.untie_embeddings_and_output_weights else 0
    return model.num_layers * layer_parameters(model) + table + hidden + (hidden if scores else output)


class MultiplyAdds(NamedTuple):
    """Workload of a forward pass, in multiply-adds; a backward pass is twice as much.

    Attributes:
        row: Of a token in all layers, attention left out.
        prediction: Of a response token in the head.
        seen_key: Of a query and one of the keys it sees, in all layers.
    """

    row: int
    prediction: int
    seen_key: int


def multiply_adds(model: ModelConfig) -> MultiplyAdds:
    """What a model's matrix products cost; a sliding window is not taken into account."""
    width = model.num_attention_heads * model.kv_channels
    return MultiplyAdds(
        row=model.num_layers * layer_parameters(model),
        prediction=model.vocab_size * model.hidden_size,
        # Scores, and the sum of values.
        seen_key=2 * model.num_layers * width,
    )


def device_parameters(role: RoleConfig, *, scores: bool = False) -> int:
    """Parameters on a device of the fullest pipeline stage.

    Args:
        role: Its model and parallel sizes.
        scores: The output layer is a scalar head, as of a reward model.
    """
    model, tp, pp = role.model, role.parallel.tensor_model_parallel_size, role.parallel.pipeline_model_parallel_size
    layers = model.num_layers // pp * layer_parameters(model, tp)
    table = model.padded_vocab(tp) // tp * model.hidden_size
    # A tied output layer is the embedding, of which another stage needs a copy.
    output = table if model.untie_embeddings_and_output_weights or pp > 1 else 0
    last = model.hidden_size + (model.hidden_size // tp if scores else output)
    return layers + (table + last if pp == 1 else max(table, last))


def adapter_parameters(role: RoleConfig, tp: int = 1, pp: int = 1) -> int:
    """Parameters of a role's adapters on one of `tp` x `pp` devices; by default of all."""
    model, rank = role.model, role.adapters.lora_r
    hidden, inner = model.hidden_size, model.ffn_hidden_size // tp
    queries, keys = (
        model.num_attention_heads * model.kv_channels // tp,
        model.num_query_groups * model.kv_channels // tp,
    )
    ends = {
        "q_proj": hidden + queries, "k_proj": hidden + keys, "v_proj": hidden + keys, "o_proj": queries + hidden,
        "gate_proj": hidden + inner, "up_proj": hidden + inner, "down_proj": inner + hidden,
    }  # fmt: skip
    return model.num_layers // pp * rank * sum(ends[module] for module in role.adapters.modules)


def trained_parameters(role: RoleConfig) -> int:
    """Parameters that a trained role's optimizer updates, on a device of the fullest pipeline stage."""
    if not role.adapters.is_on:
        return device_parameters(role)
    parallel = role.parallel
    return adapter_parameters(role, parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size)


def weight_bytes(role: RoleConfig, *, scores: bool = False) -> int:
    """Bytes of a role's weights on one device, without adapters."""
    return device_parameters(role, scores=scores) * _element(role)


def adapter_bytes(role: RoleConfig) -> int:
    """Bytes of a trained role's adapters on one device."""
    return trained_parameters(role) * _element(role) if role.adapters.is_on else 0


def merged_bytes(role: RoleConfig) -> int:
    """Bytes of the matrices with an adapter, which are merged with it in a copy for the rollout, on one device."""
    model, parallel = role.model, role.parallel
    hidden, heads, groups = model.hidden_size, model.num_attention_heads, model.num_query_groups
    sizes = {
        "linear_qkv": hidden * (heads + 2 * groups) * model.kv_channels,
        "linear_proj": hidden * heads * model.kv_channels,
        "linear_fc1": 2 * hidden * model.ffn_hidden_size,
        "linear_fc2": hidden * model.ffn_hidden_size,
    }
    copied = sum(size for fused, size in sizes.items() if set(FUSED_MODULES[fused]) & set(role.adapters.modules))
    layers = model.num_layers // parallel.pipeline_model_parallel_size
    return layers * copied // parallel.tensor_model_parallel_size * _element(role)


def gradient_bytes(role: RoleConfig) -> int:
    """Bytes of a trained role's gradient on one device."""
    return 4 * trained_parameters(role)


def optimizer_bytes(role: RoleConfig, data_parallel_size: int) -> int:
    """Bytes of a trained role's optimizer state on one device."""
    per_parameter = 12 if role.precision.bf16 else 8
    copies = max(1, data_parallel_size) * role.parallel.context_parallel_size
    shards = copies if role.parallel.use_distributed_optimizer else 1
    return per_parameter * trained_parameters(role) // shards


def cache_bytes(role: RoleConfig, tokens: int) -> int:
    """Bytes of keys and values of so many tokens on one device."""
    model, tp = role.model, role.parallel.tensor_model_parallel_size
    return 2 * model.num_layers * model.num_query_groups * model.kv_channels * tokens * _element(role) // tp


def activation_bytes(role: RoleConfig) -> int:
    """Bytes that the backward pass of a trained role keeps on one device, at most and roughly."""
    model, parallel = role.model, role.parallel
    tp, pp = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    tokens = role.batch.micro_batch_tokens or PAIR * (role.batch.micro_batch_size or 1) * role.data.seq_length
    rows = tokens // parallel.context_parallel_size
    residual = model.hidden_size // (tp if parallel.sequence_parallel else 1)
    attention = (2 * model.num_attention_heads + 2 * model.num_query_groups) * model.kv_channels
    layer = 4 * residual + (attention + 3 * model.ffn_hidden_size) // tp
    layers = model.num_layers // pp
    kept = layers * residual + layer if role.recompute.recompute_granularity == "full" else layers * layer
    held = pp + (pp - 1) / role.num_chunks if role.num_chunks > 1 else pp
    return int(rows * kept * held) * _element(role)


def _element(role: RoleConfig) -> int:
    return 2 if role.precision.bf16 else 4
