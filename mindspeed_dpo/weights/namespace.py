"""The `args` of a Megatron checkpoint, and what they say about model and layout.

Only plain values are written (numbers, texts, booleans, lists). What is read may be of any age, so absent fields have
Megatron's own defaults, except the norm's epsilon: no default of it is right for every family.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.placement import Layout

_SAME_NAME = (
    "hidden_size", "num_attention_heads", "num_query_groups", "kv_channels", "ffn_hidden_size", "vocab_size",
    "make_vocab_size_divisible_by", "untie_embeddings_and_output_weights", "max_position_embeddings", "rotary_base",
    "rope_scaling_type", "rope_scaling_factor", "low_freq_factor", "high_freq_factor",
    "original_max_position_embeddings", "norm_epsilon", "add_qkv_bias", "qk_layernorm", "init_method_std",
)  # fmt: skip
_FIXED: dict[str, Any] = {
    "add_position_embedding": True, "position_embedding_type": "rope", "normalization": "RMSNorm", "swiglu": True,
    "add_bias_linear": False, "use_mcore_models": True, "tokenizer_type": "PretrainedFromHF", "iteration": 1,
    "consumed_train_samples": 0, "consumed_valid_samples": 0, "expert_model_parallel_size": 1, "num_experts": None,
    "moe_router_topk": None, "moe_intermediate_size": None, "moe_ffn_hidden_size": None, "n_shared_experts": None,
    "shared_expert_gate": False, "first_k_dense_replace": None, "moe_layer_freq": None, "moe_grouped_gemm": False,
    "moe_tp_extend_ep": False, "q_lora_rank": None, "kv_lora_rank": None, "v_head_dim": None,
}  # fmt: skip
_SHORT_DTYPES = {"torch.bfloat16": "bf16", "torch.float16": "fp16"}


def make_namespace(model: ModelConfig, layout: Layout, dtype: str) -> argparse.Namespace:
    """The args to store beside weights.

    Args:
        model: The architecture.
        layout: How the files divide it.
        dtype: Data type of the weights, such as "torch.bfloat16".
    """
    chunks = layout.num_chunks(model.num_layers)
    short = _SHORT_DTYPES.get(dtype, "fp32")
    return argparse.Namespace(
        **_FIXED,
        **{name: getattr(model, name) for name in _SAME_NAME},
        # Megatron counts noop layers as layers.
        num_layers=model.num_layers + len(layout.noop_layers),
        group_query_attention=model.num_query_groups != model.num_attention_heads,
        padded_vocab_size=model.padded_vocab(layout.tp),
        seq_length=model.max_position_embeddings,
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        virtual_pipeline_model_parallel_size=chunks if chunks > 1 else None,
        num_layers_per_virtual_pipeline_stage=layout.layers_per_virtual_stage,
        num_layer_list=_text(layout.num_layer_list or ()),
        noop_layers=_text(layout.noop_layers),
        params_dtype=dtype,
        bf16=short == "bf16",
        fp16=short == "fp16",
    )


def plain_args(args: argparse.Namespace) -> argparse.Namespace:
    """The fields that hold numbers, texts, truth values or lists of them; objects of foreign packages are left out."""
    plain = (int, float, str, bool, type(None))
    return argparse.Namespace(
        **{
            name: value
            for name, value in vars(args).items()
            if isinstance(value, plain)
            or (isinstance(value, (list, tuple, set)) and all(isinstance(item, plain) for item in value))
        }
    )


def model_of(args: argparse.Namespace, file: object) -> ModelConfig:
    """The architecture stored args describe; the vocabulary is padded anew.

    Raises:
        WeightsError: A field is missing, or describes a model that is not supported.
    """
    _refuse_unsupported(args, file)
    values = {name: getattr(args, name) for name in _SAME_NAME if getattr(args, name, None) is not None}
    for needed in ("hidden_size", "num_attention_heads", "norm_epsilon", "max_position_embeddings", "num_layers"):
        if getattr(args, needed, None) is None:
            raise WeightsError(f"{file}: args lack {needed}; give the model's Hugging Face folder (--hf-cfg-dir)")
    if not getattr(args, "group_query_attention", False):
        values.pop("num_query_groups", None)
    padded = getattr(args, "padded_vocab_size", None)
    values.setdefault("vocab_size", padded)
    if values["vocab_size"] is None:
        raise WeightsError(f"{file}: args lack vocab_size; give the model's Hugging Face folder (--hf-cfg-dir)")
    noops = _numbers(getattr(args, "noop_layers", None))
    return ModelConfig(**{**values, "num_layers": args.num_layers - len(noops)})


def layout_of(args: argparse.Namespace, num_chunks: int, file: object) -> Layout:
    """The layout of the files: sizes from the args, the number of virtual chunks from the file itself.

    Raises:
        WeightsError: A size is missing, or the chunks do not fit.
    """
    _refuse_unsupported(args, file)
    sizes = []
    for name in ("tensor_model_parallel_size", "pipeline_model_parallel_size", "num_layers"):
        if getattr(args, name, None) is None:
            raise WeightsError(f"{file}: args lack {name}, so its layout is unknown")
        sizes.append(int(getattr(args, name)))
    tp, pp, extended = sizes
    if extended % (pp * num_chunks) and num_chunks > 1:
        raise WeightsError(f"{file}: {extended} layers cannot lie in {num_chunks} chunks of {pp} stages")
    return Layout(
        tp=tp,
        pp=pp,
        layers_per_virtual_stage=extended // (pp * num_chunks) if num_chunks > 1 else None,
        num_layer_list=tuple(_numbers(getattr(args, "num_layer_list", None))) or None,
        noop_layers=tuple(sorted(_numbers(getattr(args, "noop_layers", None)))),
    )


def _refuse_unsupported(args: argparse.Namespace, file: object) -> None:
    if getattr(args, "num_experts", None) or (getattr(args, "expert_model_parallel_size", None) or 1) > 1:
        raise WeightsError(f"{file}: mixture-of-experts weights are not supported yet")
    if getattr(args, "kv_lora_rank", None):
        raise WeightsError(f"{file}: weights with multi-latent attention are not supported")


def _text(numbers: Iterable[int]) -> str | None:
    """Megatron's spelling of a list: "4,4,6"."""
    return ",".join(map(str, numbers)) or None


def _numbers(value: str | Iterable[int] | None) -> list[int]:
    """Read a list in any spelling: text, list or set."""
    items = value.split(",") if isinstance(value, str) else value or ()
    try:
        return [int(item) for item in items]
    except (TypeError, ValueError) as error:
        raise WeightsError(f"args hold {value!r} where a list of numbers is expected") from error
