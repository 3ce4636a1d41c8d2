"""megatron-core's transformer config and layer spec for a model, with the modules of `layers`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import (
    TransformerLayer,
    TransformerLayerSubmodules,
    get_transformer_layer_offset,
)

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.models.layers import RMSNorm, SegmentAttention, SwiGLU
from mindspeed_dpo.models.moe.moe_layer import MoeLayerSpec, MoeTransformerLayer
from mindspeed_dpo.parallel.topology import Topology


@dataclass(frozen=True)
class Execution:
    """The execution of a model: parallelism, dtype, recomputation and initialisation.

    `Execution(Topology(tp=2), dtype=torch.bfloat16, sequence_parallel=True)` runs on two tensor-parallel ranks.

    Attributes:
        topology: Sizes of the parallel axes.
        dtype: Dtype of parameters and activations.
        num_chunks: Virtual stages of each pipeline stage; 1 for a pipeline without interleaving.
        sequence_parallel: Split rows between tensor-parallel ranks outside attention and MLP.
        recompute_granularity: None, `full` or `selective` (core attention only).
        recompute_method: `uniform` or `block`, with `full`.
        recompute_num_layers: Layers per recomputed unit.
        on_cpu: Whether parameters are in host memory.
        random_init: Initialise parameters at random; otherwise they are uninitialised until weights are loaded.
    """

    topology: Topology
    dtype: torch.dtype = torch.float32
    num_chunks: int = 1
    sequence_parallel: bool = False
    recompute_granularity: str | None = None
    recompute_method: str | None = None
    recompute_num_layers: int | None = None
    on_cpu: bool = True
    random_init: bool = False


def transformer_config(model: ModelConfig, execution: Execution) -> TransformerConfig:
    """Build megatron-core's config of a model.

    Every size is passed explicitly, because MindSpeed makes the settings of one role the defaults of the next.
    """
    topology = execution.topology
    return TransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.num_query_groups,
        kv_channels=model.kv_channels,
        ffn_hidden_size=model.ffn_hidden_size,
        layernorm_epsilon=model.norm_epsilon,
        normalization="RMSNorm",
        gated_linear_unit=True,
        activation_func=F.silu,
        # Required for the MLP to use the activation module of the spec.
        use_te_activation_func=True,
        add_bias_linear=False,
        add_qkv_bias=model.add_qkv_bias,
        qk_layernorm=model.qk_layernorm,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        # Number of visible keys to the left and to the right of a query.
        window_size=(model.sliding_window - 1, 0) if model.sliding_window else None,
        init_method_std=model.init_method_std,
        perform_initialization=execution.random_init,
        use_cpu_initialization=execution.on_cpu,
        params_dtype=execution.dtype,
        pipeline_dtype=execution.dtype,
        bf16=execution.dtype == torch.bfloat16,
        tensor_model_parallel_size=topology.tp,
        pipeline_model_parallel_size=topology.pp,
        virtual_pipeline_model_parallel_size=execution.num_chunks if execution.num_chunks > 1 else None,
        # With two stages both neighbours are the same process, and batched messages of interleaved stages would mix up.
        overlap_p2p_comm=execution.num_chunks > 1,
        batch_p2p_comm=execution.num_chunks == 1,
        context_parallel_size=topology.cp,
        # Experts are our own modules, of which megatron-core's config describes nothing.
        expert_model_parallel_size=1,
        sequence_parallel=execution.sequence_parallel and topology.tp > 1,
        variable_seq_lengths=topology.pp > 1,
        # The default dispatcher rejects variable lengths, even for a model without experts.
        moe_token_dispatcher_type="alltoall",
        deallocate_pipeline_outputs=topology.pp > 1,
        recompute_granularity=execution.recompute_granularity,
        recompute_method=execution.recompute_method,
        recompute_num_layers=execution.recompute_num_layers,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=False,
        apply_rope_fusion=False,
    )


def block_spec(
    config: TransformerConfig, model: ModelConfig, vp_stage: int | None = None
) -> TransformerBlockSubmodules:
    """Build the spec of the layers and the final norm of this pipeline stage, or of one of its virtual stages."""
    first = get_transformer_layer_offset(config, vp_stage)
    layers = range(first, first + get_num_layers_to_build(config, vp_stage))
    return TransformerBlockSubmodules(
        layer_specs=[_layer_spec(config, model, model.is_moe_layer(layer)) for layer in layers], layer_norm=RMSNorm
    )


def _layer_spec(config: TransformerConfig, model: ModelConfig, has_experts: bool) -> ModuleSpec:
    head_norm = RMSNorm if config.qk_layernorm else None
    attention = ModuleSpec(
        module=SelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=ColumnParallelLinear,
            core_attention=SegmentAttention,
            linear_proj=RowParallelLinear,
            q_layernorm=head_norm,
            k_layernorm=head_norm,
        ),
    )
    dense = ModuleSpec(
        module=MLP,
        submodules=MLPSubmodules(linear_fc1=ColumnParallelLinear, activation_func=SwiGLU, linear_fc2=RowParallelLinear),
    )
    return ModuleSpec(
        module=MoeTransformerLayer if has_experts else TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=RMSNorm,
            self_attention=attention,
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=RMSNorm,
            mlp=MoeLayerSpec({"model": model}) if has_experts else dense,
            mlp_bda=get_bias_dropout_add,
        ),
    )
