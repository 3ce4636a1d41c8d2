"""The `args` of a Megatron rank file: written for a model and layout, and read back to either.

Only plain values are written (numbers, strings, booleans, lists). Files of any age are read, so absent fields have
Megatron's defaults, except for the epsilon of the norms, which has no default that fits every family.
"""

from __future__ import annotations

import argparse
import reprlib
from collections.abc import Iterable
from typing import Any

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.config.settings.stored_values import check_stored
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.layer_placement import ParallelLayout
from mindspeed_dpo.weights.legacy.expert_storage import DEFAULT_STORAGE, ExpertStorage
from mindspeed_dpo.weights.legacy.legacy_expert_args import expert_args, expert_fields

_MODEL_FIELDS = (
    "hidden_size", "num_attention_heads", "num_query_groups", "kv_channels", "ffn_hidden_size", "vocab_size",
    "make_vocab_size_divisible_by", "untie_embeddings_and_output_weights", "max_position_embeddings", "rotary_base",
    "rope_scaling_type", "rope_scaling_factor", "low_freq_factor", "high_freq_factor",
    "original_max_position_embeddings", "norm_epsilon", "add_qkv_bias", "qk_layernorm", "init_method_std",
    "rotary_percent",
)  # fmt: skip
_CONSTANT_FIELDS: dict[str, Any] = {
    "add_position_embedding": True, "position_embedding_type": "rope", "normalization": "RMSNorm", "swiglu": True,
    "add_bias_linear": False, "use_mcore_models": True, "tokenizer_type": "PretrainedFromHF", "iteration": 1,
    "consumed_train_samples": 0, "consumed_valid_samples": 0, "q_lora_rank": None, "kv_lora_rank": None,
    "v_head_dim": None,
}  # fmt: skip
_MAX_SIZE = 1 << 20
"""Limit for layers, stages and ranks, which are counted one by one."""
_EP_SIZE = "expert_model_parallel_size"
_SHORT_DTYPES = {"torch.bfloat16": "bf16", "torch.float16": "fp16"}


def make_args(
    model: ModelConfig, layout: ParallelLayout, dtype: str, storage: ExpertStorage = DEFAULT_STORAGE
) -> argparse.Namespace:
    """The args to store with weights.

    Args:
        model: The architecture.
        layout: How the rank files divide the model.
        dtype: Dtype of the weights, such as "torch.bfloat16".
        storage: How the files hold experts.
    """
    chunks = layout.num_chunks(model.num_layers)
    short = _SHORT_DTYPES.get(dtype, "fp32")
    return argparse.Namespace(
        **_CONSTANT_FIELDS,
        **expert_args(model, layout, storage),
        **{name: getattr(model, name) for name in _MODEL_FIELDS},
        # Megatron counts no-op layers as layers.
        num_layers=model.num_layers + len(layout.noop_layers),
        group_query_attention=model.num_query_groups != model.num_attention_heads,
        padded_vocab_size=model.padded_vocab(layout.tp),
        seq_length=model.max_position_embeddings,
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        virtual_pipeline_model_parallel_size=chunks if chunks > 1 else None,
        num_layers_per_virtual_pipeline_stage=layout.layers_per_virtual_stage,
        num_layer_list=_format_list(layout.num_layer_list or ()),
        noop_layers=_format_list(layout.noop_layers),
        params_dtype=dtype,
        bf16=short == "bf16",
        fp16=short == "fp16",
    )


def plain_args(args: argparse.Namespace) -> argparse.Namespace:
    """The fields that hold numbers, strings, booleans or lists of them; objects of other packages are left out."""
    plain = (int, float, str, bool, type(None))
    return argparse.Namespace(
        **{
            name: value
            for name, value in vars(args).items()
            if isinstance(value, plain)
            or (isinstance(value, (list, tuple, set)) and all(isinstance(item, plain) for item in value))
        }
    )


def model_from_args(args: argparse.Namespace, file: object) -> ModelConfig:
    """The architecture that stored args describe, with vocabulary padding left to be recomputed.

    Raises:
        WeightsError: A field is missing, or describes a model that is not supported.
    """
    _reject_unsupported(args, file)
    values = {name: getattr(args, name) for name in _MODEL_FIELDS if getattr(args, name, None) is not None}
    for name in ("hidden_size", "num_attention_heads", "norm_epsilon", "max_position_embeddings", "num_layers"):
        if getattr(args, name, None) is None:
            raise WeightsError(f"{file}: args lack {name}; give the model's Hugging Face folder (--hf-cfg-dir)")
    if not getattr(args, "group_query_attention", False):
        values.pop("num_query_groups", None)
    values.setdefault("vocab_size", getattr(args, "padded_vocab_size", None))
    if values["vocab_size"] is None:
        raise WeightsError(f"{file}: args lack vocab_size; give the model's Hugging Face folder (--hf-cfg-dir)")
    noops = _parse_list(getattr(args, "noop_layers", None))
    values["num_layers"] = _size(args, "num_layers", file) - len(noops)
    values |= expert_fields(args, values["num_layers"], file)
    try:
        check_stored(ModelConfig, values)
    except ValueError as error:
        raise WeightsError(f"{file}: args: {error}; give the model's Hugging Face folder (--hf-cfg-dir)") from error
    return ModelConfig(**values)


def layout_from_args(args: argparse.Namespace, num_chunks: int, file: object) -> ParallelLayout:
    """The layout of rank files: sizes from the args, the number of chunks of each stage from the file itself.

    Raises:
        WeightsError: A size is missing, or the number of chunks does not fit.
    """
    _reject_unsupported(args, file)
    sizes = []
    for name in ("tensor_model_parallel_size", "pipeline_model_parallel_size", "num_layers"):
        if getattr(args, name, None) is None:
            raise WeightsError(f"{file}: args lack {name}, so the layout of the files is unknown")
        sizes.append(_size(args, name, file))
    tp, pp, num_layers = sizes
    has_ep = getattr(args, _EP_SIZE, None) not in (None, 0)
    if num_layers % (pp * num_chunks) and num_chunks > 1:
        raise WeightsError(f"{file}: {num_layers} layers do not fit {num_chunks} chunks in each of {pp} stages")
    return ParallelLayout(
        tp=tp,
        pp=pp,
        layers_per_virtual_stage=num_layers // (pp * num_chunks) if num_chunks > 1 else None,
        num_layer_list=tuple(_parse_list(getattr(args, "num_layer_list", None))) or None,
        noop_layers=tuple(sorted(_parse_list(getattr(args, "noop_layers", None)))),
        ep=_size(args, _EP_SIZE, file) if has_ep else 1,
    )


def _size(args: argparse.Namespace, name: str, file: object) -> int:
    """A size in the args, between 1 and `_MAX_SIZE`."""
    value = getattr(args, name)
    if type(value) is not int or not 1 <= value <= _MAX_SIZE:
        raise WeightsError(f"{file}: args have {name}={str(value)[:40]}, expected an integer of at least 1")
    return value


def _reject_unsupported(args: argparse.Namespace, file: object) -> None:
    if getattr(args, "kv_lora_rank", None) or getattr(args, "multi_latent_attention", None):
        raise WeightsError(
            f"{file}: the model has multi-latent attention (DeepSeek-V2 and V3, Kimi), which is not implemented"
        )


def _format_list(numbers: Iterable[int]) -> str | None:
    """Format a list as Megatron does: "4,4,6"."""
    return ",".join(map(str, numbers)) or None


def _parse_list(value: str | Iterable[int] | None) -> list[int]:
    """Parse a list of numbers that is stored as a string, list or set."""
    items = value.split(",") if isinstance(value, str) else value or ()
    try:
        return [int(item) for item in items]
    except (TypeError, ValueError) as error:
        raise WeightsError(f"args hold {reprlib.repr(value)} where a list of numbers is expected") from error
