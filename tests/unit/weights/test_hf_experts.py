"""Configs of models with experts: which layers have them, what is refused, and that every tensor is written once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mindspeed_dpo.weights.errors import HfConfigError, WeightsError
from mindspeed_dpo.weights.families import family_of
from mindspeed_dpo.weights.format_detection import open_weights
from mindspeed_dpo.weights.hf_config import model_config_from_hf
from mindspeed_dpo.weights.placement import ParallelLayout, Placement
from tests.support.tiny_models import MOE_FAMILIES, save_tiny_model, tiny_config


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


def test_the_names_of_transformers_4_are_read_too() -> None:
    hf = config("qwen3_moe")
    hf.pop("num_local_experts", None)
    assert model_config_from_hf({**hf, "num_experts": 6}) == model_config_from_hf(config("qwen3_moe"))
    glm = config("glm4_moe")
    glm.pop("rope_parameters")
    old = {**glm, "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "n_routed_experts": 8}
    assert model_config_from_hf(old) == model_config_from_hf(config("glm4_moe"))


def test_a_missing_size_of_the_experts_is_named() -> None:
    hf = {key: value for key, value in config("mixtral").items() if key not in ("num_local_experts", "num_experts")}
    with pytest.raises(HfConfigError, match=r"config.json has no num_local_experts; it has no default, so add it"):
        model_config_from_hf(hf)


@pytest.mark.parametrize("name", MOE_FAMILIES)
def test_a_model_tells_its_family(name: str) -> None:
    assert family_of(model_config_from_hf(config(name))).name == tiny_config(name).model_type


@pytest.mark.parametrize("name", MOE_FAMILIES)
def test_every_stored_tensor_is_read_and_written_once(name: str, tmp_path: Path) -> None:
    source = open_weights(save_tiny_model(name, tmp_path))
    model, stored = source.model_config(), load_file(tmp_path / "model.safetensors")
    written = list(source.hf_tensors(model))
    assert Counter(name for name, _ in written) == Counter(stored)
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


def test_layers_that_predict_further_tokens_are_left_out(tmp_path: Path) -> None:
    folder = save_tiny_model("glm4_moe", tmp_path)
    stored = load_file(folder / "model.safetensors")
    stored["model.layers.2.eh_proj.weight"] = torch.ones(2, 2)
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    config_file = folder / "config.json"
    text = config_file.read_text(encoding="utf-8")
    source = open_weights(folder)
    with pytest.raises(WeightsError, match=r"1 tensors are unexpected: model.layers.2.eh_proj.weight"):
        source.check(source.model_config())
    config_file.write_text(
        text.replace('"num_mtp_layers": 0', '"num_mtp_layers": 1').replace(
            '"num_nextn_predict_layers": 0', '"num_nextn_predict_layers": 1'
        ),
        encoding="utf-8",
    )
    source.check(source.model_config())
    assert "model.layers.2.eh_proj.weight" not in dict(source.hf_tensors(source.model_config()))
