from __future__ import annotations

import copy
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, LlamaConfig

from mindspeed_dpo.weights import HfConfigError
from mindspeed_dpo.weights.families import ARCHITECTURES, family_of
from mindspeed_dpo.weights.families import FAMILIES as MODEL_FAMILIES
from mindspeed_dpo.weights.hf.hf_config import (
    as_reward_config,
    describe_differences,
    is_reward_config,
    model_config_from_hf,
    num_labels,
    read_hf_config,
    read_model_config,
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


MISTRAL = {
    key: value for key, value in LLAMA32.items() if key not in ("architectures", "model_type", "rope_scaling")
} | {"model_type": "mistral"}
"""Without sliding_window, whose default is 4096."""
WINDOWED_QWEN = {key: value for key, value in QWEN25.items() if key not in ("max_window_layers", "sliding_window")} | {
    "use_sliding_window": True
}
"""Without max_window_layers, whose default is 28, and without sliding_window, whose default is 4096."""


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


def test_the_oldest_spelling_of_rope_types_is_supported() -> None:
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


SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 93,
}  # fmt: skip
ARCHITECTURE = {
    "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}  # fmt: skip


def as_transformers_reads(hf: dict[str, Any]) -> dict[str, Any]:
    """The fields of `ModelConfig` as transformers' own class gives them."""
    config = AutoConfig.for_model(**copy.deepcopy(hf))
    rope = getattr(config, "rope_parameters", None) or {"rope_theta": config.rope_theta, **(config.rope_scaling or {})}
    return {
        "num_layers": config.num_hidden_layers, "hidden_size": config.hidden_size,
        "num_query_groups": config.num_key_value_heads, "ffn_hidden_size": config.intermediate_size,
        "kv_channels": getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        "vocab_size": config.vocab_size, "norm_epsilon": config.rms_norm_eps, "rotary_base": rope["rope_theta"],
        "max_position_embeddings": config.max_position_embeddings, "init_method_std": config.initializer_range,
        "rope_scaling_factor": rope.get("factor", 1.0), "low_freq_factor": rope.get("low_freq_factor"),
        "untie_embeddings_and_output_weights": not config.tie_word_embeddings,
        "original_max_position_embeddings": rope.get("original_max_position_embeddings"),
    }  # fmt: skip


@pytest.mark.parametrize("model_type", ARCHITECTURE)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_attention_heads": 32},
        {"num_attention_heads": 32, "num_key_value_heads": 2},
        {"hidden_size": 128, "num_attention_heads": 32, "head_dim": 6, "tie_word_embeddings": True},
        {"num_attention_heads": 32, "rope_theta": 777.0},
        {"num_attention_heads": 32, "rope_parameters": {"rope_type": "default", "rope_theta": 555}, "rope_theta": 777},
        {"num_attention_heads": 32, "rope_scaling": {"type": "linear", "factor": 3.0}, "rope_theta": 777},
        {
            "num_attention_heads": 32, "rope_parameters": {"rope_type": "default", "rope_theta": 555.0},
            "rope_scaling": {"rope_type": "linear", "factor": 4},
        },
        {"num_attention_heads": 32, "rope_parameters": {"rope_theta": 555.0}, "rope_scaling": {}},
        {
            "num_attention_heads": 32, "rope_parameters": {"rope_type": "linear", "rope_theta": 555.0, "factor": 2.0},
            "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        },
        {"num_attention_heads": 32, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "initializer_range": 0.5},
    ],
)  # fmt: skip
def test_absent_keys_have_the_values_of_transformers_own_class(model_type: str, changes: dict[str, Any]) -> None:
    hf = {"model_type": model_type, "architectures": [ARCHITECTURE[model_type]], **SIZES, **changes}
    if as_transformers_reads(hf)["num_query_groups"] > hf["num_attention_heads"]:
        with pytest.raises(HfConfigError, match=r"num_attention_heads=4 .*num_key_value_heads=\d+ \(the default"):
            model_config_from_hf(hf)
        return
    model, expected = model_config_from_hf(hf), as_transformers_reads(hf)
    assert {name: getattr(model, name) for name in expected} == expected


@pytest.mark.parametrize("model_type", ARCHITECTURE)
def test_sizes_may_be_left_out_as_in_transformers(model_type: str) -> None:
    hf = {"model_type": model_type, "sliding_window": None} if model_type == "mistral" else {"model_type": model_type}
    model, expected = model_config_from_hf(hf), as_transformers_reads(hf)
    assert {name: getattr(model, name) for name in expected} == expected


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3"])
def test_null_key_heads_are_as_many_as_query_heads(model_type: str) -> None:
    hf = {"model_type": model_type, **SIZES, "num_key_value_heads": None, "sliding_window": None}
    assert model_config_from_hf(hf).num_query_groups == 4


def test_the_length_before_scaling_beside_the_section_wins() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    hf = {"model_type": "llama", **SIZES, "rope_scaling": yarn, "original_max_position_embeddings": 32}
    assert model_config_from_hf(hf).original_max_position_embeddings == 32


def test_yarn_without_a_factor_scales_by_the_ratio_of_lengths() -> None:
    yarn = {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 512}
    hf = {"model_type": "llama", **SIZES, "rope_scaling": yarn, "max_position_embeddings": 2048}
    assert model_config_from_hf(hf).rope_scaling_factor == 4.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 64.5}, "hidden_size must be an integer, got a number, 64.5"),
        ({"hidden_size": "64"}, "hidden_size must be an integer"),
        ({"hidden_size": True}, "hidden_size must be an integer"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_attention_heads": 0}, "num_attention_heads must be an integer of at least 1"),
        ({"num_key_value_heads": -4}, "num_key_value_heads must be an integer of at least 1"),
        ({"num_key_value_heads": 3}, "num_attention_heads=4 must be a multiple of num_key_value_heads=3"),
        ({"num_hidden_layers": 2**40}, "num_hidden_layers must be at most 10000"),
        ({"vocab_size": 2**62}, "vocab_size must be at most 2147483647"),
        ({"vocab_size": 10**30}, "vocab_size must be an integer"),
        ({"rms_norm_eps": "nan"}, "rms_norm_eps must be a finite number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be a finite number"),
        ({"rms_norm_eps": 0}, "rms_norm_eps must be more than 0"),
        ({"rms_norm_eps": [1e-5]}, "rms_norm_eps must be a finite number, got a list"),
        ({"initializer_range": -1}, "initializer_range must be at least 0"),
        ({"initializer_range": 7}, "LlamaConfig refuses it: .*initializer_range"),
        ({"head_dim": 15}, "head_dim=15 must be even|even rotary dimension"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings must be true or false"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false"),
        ({"hidden_act": ["silu"]}, "hidden_act must be a text"),
        ({"rope_theta": "1e6"}, "rope_theta must be a finite number"),
        ({"rope_theta": None}, "rope_theta"),
        ({"rope_theta": -1}, "rope_theta must be more than 0"),
        ({"rope_scaling": [1]}, "rope_scaling must be an object"),
        ({"rope_parameters": "linear"}, "rope_parameters must be an object"),
        ({"rope_scaling": {"rope_type": 3}}, "rope_scaling: rope_type must be a text"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "2"}}, "rope_scaling: factor must be a finite number"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "rope_scaling: factor must be more than 0"),
        ({"partial_rotary_factor": "half"}, "partial_rotary_factor must be a finite number"),
        ({"model_type": ["llama"]}, "model_type must be a text"),
        ({"architectures": "LlamaForCausalLM"}, "architectures must be a list"),
        ({"num_labels": "one", "architectures": ["LlamaForSequenceClassification"]}, "num_labels must be an integer"),
        ({"id2label": [1], "architectures": ["LlamaForSequenceClassification"]}, "id2label must be an object"),
        ({"num_experts": "8"}, "num_experts must be an integer"),
    ],
)
def test_values_of_another_type_or_size_are_named_with_the_file(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **SIZES, **changes}))
    with pytest.raises(HfConfigError, match=f"^{re.escape(str(tmp_path / 'config.json'))}.*({words})"):
        read_model_config(tmp_path)


@pytest.mark.parametrize("changes", [{"attention_bias": True}, {"mlp_bias": True}])
def test_keys_that_the_class_does_not_have_change_nothing(changes: dict[str, Any]) -> None:
    assert model_config_from_hf({**QWEN25, **changes}) == model_config_from_hf(QWEN25)


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
        (
            {"rope_scaling": None, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            "rope_parameters: partial_rotary_factor=0.5",
        ),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        ({"num_local_experts": 8}, "num_local_experts=8"),
        ({"sliding_window": 4096}, "sliding_window=4096.*set it to null"),
        ({"layer_types": ["sliding_attention"]}, "sliding_window"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic'.*default, linear, llama3, yarn"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "'longrope'"),
        ({"rope_scaling": {"rope_type": "linear"}}, "lacks 'factor'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "lacks 'low_freq_factor'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 8.0, "beta_fast": 16}}, "beta_fast=16"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 8.0, "mscale": 0.7}}, "mscale=0.7"),
        (
            {"rope_scaling": None, "rope_parameters": {"full_attention": {"rope_type": "default"}}},
            "differ by layer type",
        ),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4, "high_freq_factor": 4}},
            "high_freq_factor=4.0 must be more than low_freq_factor=4.0",
        ),
        ({"head_dim": None, "num_attention_heads": 30}, "does not divide|not a multiple"),
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
        (MISTRAL, {}, 4096),
        (MISTRAL, {"layer_types": ["full_attention"] * 16}, 4096),
        (MISTRAL, {"max_position_embeddings": 4096}, None),
        (WINDOWED_QWEN, {}, None),
        (WINDOWED_QWEN, {"max_window_layers": 0, "max_position_embeddings": 8192}, 4096),
        (WINDOWED_QWEN, {"use_sliding_window": False, "sliding_window": 8}, None),
    ],
)
def test_a_window_is_read_where_every_layer_has_it(
    base: dict[str, Any], changes: dict[str, Any], window: int | None
) -> None:
    assert model_config_from_hf({**base, **changes}).sliding_window == window


def test_a_window_of_some_layers_only_is_refused() -> None:
    changes = {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 27}
    with pytest.raises(HfConfigError, match="sliding_window=4096"):
        model_config_from_hf({**QWEN25, **changes})
    with pytest.raises(HfConfigError, match=r"sliding_window=4096 \(the default of Qwen2Config\) is supported only"):
        model_config_from_hf({**WINDOWED_QWEN, "num_hidden_layers": 32, "num_attention_heads": 28})
    with pytest.raises(HfConfigError, match="layer_types names chunked_attention"):
        model_config_from_hf({**QWEN25, "layer_types": ["chunked_attention"] * 28})


def test_every_architecture_has_rules_and_is_identified_by_its_traits() -> None:
    assert all(family.architectures and family.rules for family in MODEL_FAMILIES)
    dense, experts = ["llama", "mistral", "qwen2", "qwen3"], ["mixtral", "qwen2_moe", "qwen3_moe", "glm4_moe"]
    assert list(ARCHITECTURES) == dense + experts
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


def test_unreadable_configs_are_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config.json does not exist"):
        read_hf_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(HfConfigError, match=r"config\.json: line 1, column 2: invalid JSON"):
        read_hf_config(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(HfConfigError, match="must hold a JSON object, got a list"):
        read_hf_config(tmp_path)
    (tmp_path / "config.json").write_bytes(b'{"model_type": "\xff"}')
    with pytest.raises(HfConfigError, match=r"config.json is not UTF-8 text"):
        read_hf_config(tmp_path)
    (tmp_path / "config.json").write_text('{"a":' * 5000 + "1" + "}" * 5000)
    with pytest.raises(HfConfigError, match=r"config.json: JSON is nested more than"):
        read_hf_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA32))
    assert read_hf_config(tmp_path) == LLAMA32
