from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from mindspeed_dpo.weights import HfConfigError
from mindspeed_dpo.weights.families import ARCHITECTURES, family_of
from mindspeed_dpo.weights.families import FAMILIES as MODEL_FAMILIES
from mindspeed_dpo.weights.hf_config import (
    as_reward_config,
    describe_differences,
    is_reward_config,
    model_config_from_hf,
    num_labels,
    read_hf_config,
)
from tests.support.tiny_models import FAMILIES, tiny_config

LLAMA32 = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "head_dim": 64,
    "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192,
    "max_position_embeddings": 131072, "mlp_bias": False, "num_attention_heads": 32, "num_hidden_layers": 16,
    "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "tie_word_embeddings": True, "torch_dtype": "bfloat16", "vocab_size": 128256,
}  # fmt: skip
QWEN25 = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "hidden_size": 3584,
    "intermediate_size": 18944, "max_position_embeddings": 32768, "max_window_layers": 28, "num_attention_heads": 28,
    "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
    "sliding_window": 131072, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_sliding_window": False,
    "vocab_size": 152064,
}  # fmt: skip


def test_llama_32_in_the_form_of_transformers_4() -> None:
    model = model_config_from_hf(LLAMA32)
    expected = {
        "num_layers": 16, "hidden_size": 2048, "num_attention_heads": 32, "num_query_groups": 8, "kv_channels": 64,
        "ffn_hidden_size": 8192, "vocab_size": 128256, "untie_embeddings_and_output_weights": False,
        "rotary_base": 500000.0, "rope_scaling_type": "llama3", "rope_scaling_factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192, "norm_epsilon": 1e-5,
        "add_qkv_bias": False, "qk_layernorm": False, "max_position_embeddings": 131072,
    }  # fmt: skip
    assert {name: getattr(model, name) for name in expected} == expected
    assert family_of(model).name == "llama"


def test_qwen_25_has_biases_and_no_window() -> None:
    model = model_config_from_hf(QWEN25)
    assert (model.kv_channels, model.num_query_groups, model.add_qkv_bias, model.rope_scaling_type) == (
        128,
        4,
        True,
        None,
    )
    assert (model.norm_epsilon, model.vocab_size, family_of(model).name) == (1e-6, 152064, "qwen2")


@pytest.mark.parametrize("name", FAMILIES)
def test_both_generations_of_config_mean_the_same(name: str) -> None:
    new = tiny_config(name).to_dict()
    rope = dict(new["rope_parameters"])
    old = {key: value for key, value in new.items() if key not in ("rope_parameters", "dtype", "layer_types")}
    old["rope_theta"] = rope.pop("rope_theta")
    old["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    assert model_config_from_hf(old) == model_config_from_hf(new)


def test_the_oldest_spelling_of_rope_types_is_known() -> None:
    model = model_config_from_hf({**LLAMA32, "rope_scaling": {"type": "linear", "factor": 2}})
    assert (model.rope_scaling_type, model.rope_scaling_factor) == ("linear", 2.0)


def test_yarn_takes_the_length_before_stretching() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0}
    model = model_config_from_hf({**QWEN25, "rope_scaling": {**yarn, "original_max_position_embeddings": 8192}})
    assert (model.rope_scaling_type, model.rope_scaling_factor, model.original_max_position_embeddings) == (
        "yarn",
        4,
        8192,
    )
    assert model_config_from_hf({**QWEN25, "rope_scaling": yarn}).original_max_position_embeddings == 32768


def test_absent_keys_with_one_meaning_are_filled_in() -> None:
    optional = ("num_key_value_heads", "head_dim", "rope_theta", "rope_scaling", "tie_word_embeddings")
    plain = {key: value for key, value in LLAMA32.items() if key not in optional}
    model = model_config_from_hf(plain)
    assert (model.num_query_groups, model.kv_channels, model.rotary_base) == (32, 64, 10000.0)
    assert model.untie_embeddings_and_output_weights and model.rope_scaling_type is None


@pytest.mark.parametrize("key", ["rms_norm_eps", "hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size"])
def test_keys_that_cannot_be_guessed_are_required(key: str) -> None:
    with pytest.raises(HfConfigError, match=f"no {key}"):
        model_config_from_hf({name: value for name, value in LLAMA32.items() if name != key})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gemma2"}, "'gemma2' .*supported: llama, mistral, qwen2, qwen3"),
        ({"model_type": "qwen2_vl"}, "nearest: qwen2"),
        ({"model_type": None}, "supported: llama"),
        ({"architectures": ["LlamaForTokenClassification"]}, "expected LlamaForCausalLM, or LlamaForSequenceClass"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "a classifier of 2 labels; a reward model has num_la"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'.*silu"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        ({"num_local_experts": 8}, "num_experts"),
        ({"sliding_window": 4096}, "sliding_window=4096.*set it to null"),
        ({"layer_types": ["sliding_attention"]}, "sliding_window"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic'.*default, linear, llama3, yarn"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "'longrope'"),
        ({"rope_scaling": {"rope_type": "linear"}}, "lacks factor"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "lacks low_freq_factor"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 8.0, "beta_fast": 16}}, "beta_fast=16"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 8.0, "mscale": 0.7}}, "mscale=0.7"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "differ by layer type"),
        ({"head_dim": None, "num_attention_heads": 30}, "does not divide"),
    ],
)
def test_what_is_not_computed_exactly_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(HfConfigError, match=words):
        model_config_from_hf({**LLAMA32, **changes})


@pytest.mark.parametrize(
    ("base", "changes", "window"),
    [
        (LLAMA32, {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": None}, None),
        (LLAMA32, {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 4096}, 4096),
        (LLAMA32, {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 131072}, None),
        (QWEN25, {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 28}, None),
        (QWEN25, {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 0}, 4096),
        (QWEN25, {"use_sliding_window": True, "sliding_window": 32768, "max_window_layers": 0}, None),
        (QWEN25, {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["full_attention"] * 28}, None),
    ],
)
def test_a_window_is_kept_where_every_layer_feels_it(
    base: dict[str, Any], changes: dict[str, Any], window: int | None
) -> None:
    assert model_config_from_hf({**base, **changes}).sliding_window == window


def test_a_window_of_some_layers_only_is_refused() -> None:
    changes = {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 27}
    with pytest.raises(HfConfigError, match="sliding_window=4096"):
        model_config_from_hf({**QWEN25, **changes})


def test_every_architecture_has_rules_and_is_found_by_its_traits() -> None:
    assert all(family.architectures and family.rules for family in MODEL_FAMILIES)
    assert list(ARCHITECTURES) == ["llama", "mistral", "qwen2", "qwen3"]
    for config in (LLAMA32, QWEN25, tiny_config("qwen3").to_dict(), tiny_config("mistral").to_dict()):
        assert family_of(model_config_from_hf(config)) is ARCHITECTURES[config["model_type"]][0]
    both = dataclasses.replace(model_config_from_hf(QWEN25), qk_layernorm=True)
    with pytest.raises(
        HfConfigError, match="no supported family has add_qkv_bias=True together with qk_layernorm=True"
    ):
        family_of(both)


def test_differences_are_named_field_by_field() -> None:
    hf = model_config_from_hf(LLAMA32)
    free = {"max_position_embeddings": 8192, "init_method_std": 0.01, "make_vocab_size_divisible_by": 128}
    assert describe_differences(dataclasses.replace(hf, **free), hf) == []
    changed = dataclasses.replace(hf, num_layers=32, norm_epsilon=1e-6, rope_scaling_factor=8.0)
    assert describe_differences(changed, hf) == [
        "num_layers is 32 in the model section, but 16 in the weights' config",
        "norm_epsilon is 1e-06 in the model section, but 1e-05 in the weights' config",
        "rope_scaling_factor is 8.0 in the model section, but 32.0 in the weights' config",
    ]
    no_scaling = dataclasses.replace(hf, rope_scaling_type=None)
    assert "rope_scaling_type is None" in describe_differences(no_scaling, hf)[0]


def test_a_tied_embedding_makes_no_difference_to_reward_models() -> None:
    hf = model_config_from_hf(LLAMA32)
    untied = dataclasses.replace(hf, untie_embeddings_and_output_weights=True)
    assert "untie_embeddings_and_output_weights is True" in describe_differences(untied, hf)[0]
    assert describe_differences(untied, hf, reward=True) == []
    other = dataclasses.replace(untied, num_layers=3)
    assert len(describe_differences(other, hf, reward=True)) == 1


ONE_LABEL = {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "good"}}


def test_a_classifier_of_one_label_is_a_reward_model_of_the_same_architecture() -> None:
    assert not is_reward_config(LLAMA32)
    for labels in ({"id2label": {"0": "good"}}, {"num_labels": 1}):
        config = {**LLAMA32, "architectures": ["LlamaForSequenceClassification"], **labels}
        assert is_reward_config(config) and num_labels(config) == 1
        assert model_config_from_hf(config) == model_config_from_hf(LLAMA32)


def test_a_language_models_config_becomes_that_of_its_reward_model() -> None:
    config = as_reward_config(LLAMA32)
    assert is_reward_config(config) and LlamaConfig(**config).num_labels == 1
    assert {**config, "architectures": LLAMA32["architectures"], "id2label": None, "label2id": None} == {
        **LLAMA32, "id2label": None, "label2id": None
    }  # fmt: skip
    named = {**LLAMA32, **ONE_LABEL}
    assert as_reward_config(named) == named


@pytest.mark.parametrize("labels", [{}, {"num_labels": 3}, {"id2label": {"0": "bad", "1": "good"}}])
def test_classifiers_of_several_labels_are_refused(labels: dict[str, Any]) -> None:
    config = {**LLAMA32, "architectures": ["LlamaForSequenceClassification"], **labels}
    with pytest.raises(HfConfigError, match=rf"a classifier of {num_labels(config)} labels; .* num_labels 1"):
        is_reward_config(config)


def test_unreadable_configs_are_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config.json does not exist"):
        read_hf_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(HfConfigError, match="not valid JSON"):
        read_hf_config(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(HfConfigError, match="must hold a JSON object, got list"):
        read_hf_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA32))
    assert read_hf_config(tmp_path) == LLAMA32
