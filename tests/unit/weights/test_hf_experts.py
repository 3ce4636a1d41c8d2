"""Configs of models with experts: which layers have them, what is refused, and that every tensor is written once."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from mindspeed_dpo.weights.errors import HfConfigError, WeightsError
from mindspeed_dpo.weights.families import family_of
from mindspeed_dpo.weights.families.unsupported import UNSUPPORTED
from mindspeed_dpo.weights.format_detection import open_weights
from mindspeed_dpo.weights.hf.hf_config import model_config_from_hf
from mindspeed_dpo.weights.layer_placement import ParallelLayout, Placement
from tests.support.tiny_models import MOE_FAMILIES, save_tiny_model, tiny_config, tiny_model


def config(name: str, **changes: Any) -> dict[str, Any]:
    return {**tiny_config(name).to_dict(), "architectures": None, **changes}


@pytest.mark.parametrize(
    ("changes", "layers"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"decoder_sparse_step": 2}, [1, 3, 5]),
        ({"decoder_sparse_step": 2, "mlp_only_layers": [3]}, [1, 5]),
        ({"mlp_only_layers": [0, 5]}, [1, 2, 3, 4]),
    ],
)
def test_layers_with_experts_are_those_of_transformers(changes: dict[str, Any], layers: list[int]) -> None:
    model = model_config_from_hf(config("qwen3_moe", num_hidden_layers=6, **changes))
    assert [layer for layer in range(6) if model.is_moe_layer(layer)] == layers


TRANSFORMERS_4 = json.loads(Path(__file__).with_name("transformers_4_configs.json").read_text(encoding="utf-8"))
"""What `save_pretrained` of transformers 4.57.3 writes to config.json for the same models; its tensors are the same."""


@pytest.mark.parametrize("name", MOE_FAMILIES)
def test_files_of_every_transformers_are_the_same_model(name: str, tmp_path: Path) -> None:
    """Files of transformers 4, and those of 5 with one tensor for each expert or two for all experts of a layer."""
    source = open_weights(save_tiny_model(name, tmp_path / "5"))
    tiny_model(name).save_pretrained(tmp_path / "5 fused", save_original_format=False)
    shutil.copytree(tmp_path / "5", tmp_path / "4")
    (tmp_path / "4/config.json").write_text(json.dumps(TRANSFORMERS_4[name]), encoding="utf-8")
    assert "rope_theta" in TRANSFORMERS_4[name] and "rope_parameters" in json.loads(
        (tmp_path / "5/config.json").read_text(encoding="utf-8")
    )
    expected = dict(source.hf_tensors(source.model_config()))
    assert not expected.keys() <= load_file(tmp_path / "5 fused/model.safetensors").keys()
    for other in map(open_weights, (tmp_path / "4", tmp_path / "5 fused")):
        assert other.model_config() == source.model_config()
        tensors = dict(other.hf_tensors(source.model_config()))
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[key], tensor) for key, tensor in expected.items())


@pytest.mark.parametrize(
    ("name", "absent", "expected"),
    [
        ("mixtral", ("num_local_experts", "rope_parameters"), {"num_experts": 8, "rotary_base": 1e6}),
        ("qwen2_moe", ("num_experts", "norm_topk_prob"), {"num_experts": 60, "norm_topk_prob": False}),
        ("qwen2_moe", ("shared_expert_intermediate_size",), {"moe_shared_expert_intermediate_size": 5632}),
        ("qwen3_moe", ("num_experts_per_tok", "decoder_sparse_step"), {"moe_router_topk": 8, "mlp_only_layers": ()}),
        ("glm4_moe", ("rope_parameters", "n_group"), {"rotary_percent": 0.5, "moe_router_num_groups": 1}),
        ("glm4_moe", ("attention_bias", "use_qk_norm"), {"add_qkv_bias": False, "qk_layernorm": False}),
    ],
)
def test_values_that_the_file_lacks_are_those_of_the_class(
    name: str, absent: tuple[str, ...], expected: dict[str, Any]
) -> None:
    model = model_config_from_hf({key: value for key, value in config(name).items() if key not in absent})
    assert {field: getattr(model, field) for field in expected} == expected


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_models_that_are_not_implemented_are_refused_with_what_is_missing(name: str) -> None:
    # Some model types are defined by code in the model's own folder.
    config = CONFIG_MAPPING[name]().to_dict() if name in CONFIG_MAPPING else {"model_type": name}
    words = f"'{name}' is not supported: it needs {re.escape(UNSUPPORTED[name])}, which is not implemented"
    with pytest.raises(HfConfigError, match=words):
        model_config_from_hf(config)


def test_all_models_in_demand_are_either_supported_or_refused_with_a_reason() -> None:
    in_demand = {
        "deepseek_v2",
        "deepseek_v3",
        "kimi_k2",
        "qwen3_next",
        "qwen3_5_moe",
        "gpt_oss",
        "llama4",
        "llama4_text",
    }
    assert in_demand <= UNSUPPORTED.keys()


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("mixtral", {"num_local_experts": "8"}, "num_local_experts must be an integer"),
        ("mixtral", {"num_experts": 9}, "num_local_experts and num_experts mean the same, but differ; remove one"),
        ("mixtral", {"router_jitter_noise": 0.1}, "router_jitter_noise=0.1 is not supported; supported: 0.0"),
        ("mixtral", {"sliding_window": 0}, "sliding_window=0 must be at least 1, or null"),
        ("qwen2_moe", {"qkv_bias": False}, "qkv_bias=False is not supported; supported: true"),
        ("qwen2_moe", {"norm_topk_prob": 1}, "norm_topk_prob must be true or false"),
        ("qwen3_moe", {"attention_bias": True}, "attention_bias=True is not supported; supported: false"),
        ("qwen3_moe", {"num_local_experts": 1}, "num_local_experts must be an integer of at least 2"),
        ("qwen3_moe", {"decoder_sparse_step": 0}, "decoder_sparse_step must be an integer of at least 1"),
        ("qwen3_moe", {"mlp_only_layers": ["1"]}, "mlp_only_layers must be an integer"),
        ("qwen3_moe", {"use_sliding_window": True, "sliding_window": 4}, "sliding_window=4 is supported only"),
        ("qwen3_moe", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported; supported: 1.0"),
        ("glm4_moe", {"rope_parameters": {"partial_rotary_factor": 1.5}}, "partial_rotary_factor must be at most 1"),
        ("glm4_moe", {"routed_scaling_factor": 0}, "routed_scaling_factor must be more than 0"),
    ],
)
def test_what_is_not_computed_exactly_is_refused(name: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(HfConfigError, match=f"config.json.*{words}"):
        model_config_from_hf(config(name, **changes))


def test_a_window_of_all_layers_is_read() -> None:
    assert model_config_from_hf(config("mixtral", sliding_window=4)).sliding_window == 4


@pytest.mark.parametrize("name", MOE_FAMILIES)
def test_a_model_tells_its_family(name: str) -> None:
    assert family_of(model_config_from_hf(config(name))).name == tiny_config(name).model_type


@pytest.mark.parametrize("name", MOE_FAMILIES)
def test_every_stored_tensor_is_read_and_written_once(name: str, tmp_path: Path) -> None:
    source = open_weights(save_tiny_model(name, tmp_path))
    model, stored = source.model_config(), load_file(tmp_path / "model.safetensors")
    written = list(source.hf_tensors(model))
    assert Counter(name for name, _ in written) == Counter(list(stored))
    assert all(torch.equal(tensor, stored[name]) for name, tensor in written)


@pytest.mark.parametrize("name", ["mixtral", "glm4_moe"])
@pytest.mark.parametrize("ep", [2, 4])
def test_ranks_hold_every_expert_once_between_them(name: str, ep: int, tmp_path: Path) -> None:
    source = open_weights(save_tiny_model(name, tmp_path))
    model = source.model_config()
    held: Counter[str] = Counter()
    for rank in range(ep):
        placement = ParallelLayout(ep=ep).placement(model.num_layers, 0, 0, ep_rank=rank)
        first = placement.experts(model.num_experts or 0).start
        for local, tensor in source.local_tensors(model, placement):
            if ".local_experts." in local and local.endswith("linear_fc2.weight"):
                layer, expert = int(local.split(".")[2]), first + int(local.split(".")[6])
                hf = f"{layer}.{expert}"
                held[hf] += 1
                assert tensor.shape == (model.hidden_size, model.moe_ffn_hidden_size)
    layers = [layer for layer in range(model.num_layers) if model.is_moe_layer(layer)]
    assert held == Counter(f"{layer}.{expert}" for layer in layers for expert in range(model.num_experts or 0))


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_an_expert_too_few_or_too_many_is_named(change: str, tmp_path: Path) -> None:
    source = open_weights(save_tiny_model("qwen3_moe", tmp_path))
    model, stored = source.model_config(), load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.experts.5.up_proj.weight"
    tensor = stored.pop(name)
    if change == "unexpected":
        stored[name], name = tensor, name.replace("experts.5", "experts.6")
        stored[name] = tensor.clone()
    save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=f"1 tensors are {change}: {name}"):
        open_weights(tmp_path).check(model)


def test_experts_that_do_not_divide_are_refused() -> None:
    placement = Placement(0, 1, 0, 1, (0,), True, True, ep_rank=0, ep_size=4)
    with pytest.raises(WeightsError, match="expert-parallel size 4 does not divide num_experts=6"):
        placement.experts(6)
