"""Files of a Hugging Face folder other than weights: configurations of every family, and tokenizers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from mindspeed_dpo.data.tokenization.tokenizer import load_tokenizer, stop_token_ids
from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.weights.families import ARCHITECTURES
from mindspeed_dpo.weights.hf.hf_config import (
    as_reward_config,
    is_reward_config,
    num_labels,
    read_hf_config,
    read_model_config,
)
from tests.fuzz.target import JSON, Target

TOKENIZER = Path(__file__).resolve().parents[1] / "recordings/data/policy"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
COMMON = {
    "hidden_act": "silu", "vocab_size": 13, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "max_position_embeddings": 32,
    "initializer_range": 0.02, "tie_word_embeddings": False, "attention_dropout": 0.0, "bos_token_id": 1,
    "eos_token_id": [1, 2], "use_cache": True, "sliding_window": None,
}  # fmt: skip
SCALINGS: dict[str, dict[str, Any]] = {
    "llama": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "qwen2": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8},
    "mistral": {"rope_type": "linear", "factor": 2.0},
}  # fmt: skip
"""Rotary settings by model type; the other types have none."""
EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.02},
    "qwen2_moe": {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 6, "shared_expert_intermediate_size": 10,
        "norm_topk_prob": False, "decoder_sparse_step": 1, "mlp_only_layers": [0], "router_aux_loss_coef": 0.001,
    },
    "qwen3_moe": {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 6, "head_dim": 4, "norm_topk_prob": True,
        "decoder_sparse_step": 2, "mlp_only_layers": [], "router_aux_loss_coef": 0.001,
    },
    "glm4_moe": {
        "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 6,
        "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1, "routed_scaling_factor": 1.5,
        "norm_topk_prob": True, "use_qk_norm": True, "attention_bias": True, "partial_rotary_factor": 0.5,
        "num_nextn_predict_layers": 1, "head_dim": 8,
    },
}  # fmt: skip
"""What families with experts say beyond the others."""
WINDOWS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 16},
    "qwen2": {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0},
    "qwen3": {"head_dim": 4, "use_sliding_window": False, "sliding_window": None, "max_window_layers": 2},
}


def write_model_files(root: Path) -> None:
    """Write the configurations of every family, a generation configuration and a tokenizer."""
    for name, config in _configs():
        (root / "configs-hf" / name).mkdir(parents=True)
        (root / "configs-hf" / name / "config.json").write_text(json.dumps(config, indent=2))
    (root / "generation").mkdir()
    generation = {"bos_token_id": 1, "eos_token_id": [2, 5], "temperature": 0.6, "transformers_version": "4.51.0"}
    (root / "generation/generation_config.json").write_text(json.dumps(generation))
    (root / "tokenizer").mkdir()
    for name in TOKENIZER_FILES:
        shutil.copy(TOKENIZER / name, root / "tokenizer" / name)


def _configs() -> Iterator[tuple[str, dict[str, Any]]]:
    """A config of every model type as transformers 4 and 5 save it, and that of a reward model."""
    for model_type, (_, architecture) in ARCHITECTURES.items():
        scaling, window = SCALINGS.get(model_type), WINDOWS.get(model_type, {})
        own = {**COMMON, "model_type": model_type, "architectures": [architecture.causal_lm], **window}
        own |= EXPERTS.get(model_type, {})
        yield f"{model_type}-4", {**own, "rope_theta": 1e4, "rope_scaling": scaling, "torch_dtype": "bfloat16"}
        kinds = ["sliding_attention" if window.get("sliding_window") else "full_attention"] * 2
        nested = {"rope_theta": 1e4, **(scaling or {"rope_type": "default"})}
        yield f"{model_type}-5", {**own, "rope_parameters": nested, "layer_types": kinds, "dtype": "bfloat16"}
    llama = ARCHITECTURES["llama"][1]
    labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    yield "reward", {**COMMON, "model_type": "llama", "architectures": [llama.classifier], **labels}


def _config(folder: Path) -> None:
    config = read_hf_config(folder)
    read_model_config(folder)
    is_reward_config(config)
    as_reward_config(config)
    num_labels(config)


def _stop_tokens(root: Path) -> None:
    tokenizer = cast(Any, SimpleNamespace(eos_token_id=1))
    stop_token_ids(tokenizer, None, root / "generation")


def _tokenizer(root: Path) -> None:
    try:
        tokenizer = load_tokenizer(root / "tokenizer")
    except ValueError as error:
        if "tokenizer_name_or_path" not in str(error):
            raise
        raise MalformedDataError(str(error)) from error
    tokenizer.decode(tokenizer.encode("Grüße 你好"))


MODEL_TARGETS = (
    *(
        Target(
            f"hf-config-{name}",
            f"configs-hf/{name}/config.json",
            lambda root, name=name: _config(root / "configs-hf" / name),  # type: ignore[misc]
            JSON,
        )
        for name, _ in _configs()
    ),
    Target("generation-config", "generation/generation_config.json", _stop_tokens, JSON),
    *(
        Target(
            f"tokenizer-{name}",
            f"tokenizer/{name}",
            _tokenizer,
            JSON if name.endswith(".json") else (),
            share=0.02,
            limit_s=70,
        )
        for name in TOKENIZER_FILES
    ),
)
