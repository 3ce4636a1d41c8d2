"""Adapters of experts as files: PEFT's two forms are read exactly, written so that PEFT reads them, and merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import convert_ckpt
from mindspeed_dpo.config.settings.lora import AdapterConfig
from mindspeed_dpo.weights import WeightsError, open_adapter, open_weights
from mindspeed_dpo.weights.lora import check_adapter, write_peft
from tests.support.peft_adapters import base_model, loaded, save_random_adapter
from tests.support.tiny_models import save_tiny_model

pytestmark = pytest.mark.numerics

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model.model.layers"
TOKENS = torch.tensor([[5, 1, 64, 92, 7, 7, 30]])
ATTENTION = ("q_proj", "o_proj")
BOTH = {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}
KINDS: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "parameters": ("qwen3_moe", ATTENTION, BOTH),
    "modules, which PEFT fuses": ("qwen3_moe", (*ATTENTION, "gate_proj", "up_proj", "down_proj"), {"use_rslora": True}),
    "modules of mixtral": ("mixtral", ("w1", "w2", "w3"), {}),
    "the inner parameter": ("mixtral", ATTENTION, {"target_parameters": ["mlp.experts.gate_up_proj"]}),
    "the outer parameter": ("glm4_moe", ATTENTION, {"target_parameters": ["experts.down_proj"]}),
    "shared experts": ("qwen2_moe", ("gate_proj", "up_proj", "down_proj"), BOTH),
}


def logits(base: Path, adapter: Path) -> Tensor:
    with torch.no_grad():
        return loaded(base, adapter)(TOKENS).logits


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_are_written_as_they_were_read_and_merged_as_by_peft(kind: str, tmp_path: Path) -> None:
    family, modules, settings = KINDS[kind]
    base = save_tiny_model(family, tmp_path / "base")
    adapter = save_random_adapter(base, tmp_path / "peft", modules, **settings)
    source = open_adapter(adapter)
    source.check(open_weights(base).model_config())
    write_peft(source.tensors, source.settings, str(base), tmp_path / "again")
    first, second = load_file(adapter / WEIGHTS), load_file(tmp_path / "again" / WEIGHTS)
    assert first.keys() == second.keys() and all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    expected = logits(base, adapter)
    assert torch.equal(logits(base, tmp_path / "again"), expected)
    arguments = ("--load-dir", base, "--lora-load", adapter, "--save-model-type", "hf", "--save-dir", tmp_path / "hf")
    assert convert_ckpt.main([str(argument) for argument in arguments]) == 0
    with torch.no_grad():
        torch.testing.assert_close(base_model(tmp_path / "hf")(TOKENS).logits, expected, rtol=0, atol=1e-5)
        assert (base_model(base)(TOKENS).logits - expected).abs().max() > 0.01


def per_expert_adapter(folder: Path, matrices: dict[str, str], block: str = "mlp", experts: int = 6) -> Path:
    """An adapter as PEFT saved it with transformers 4: modules of every expert, by their names, for hidden size 32."""
    generator, tensors = torch.Generator().manual_seed(3), {}
    for layer in range(2):
        for expert in range(experts):
            for name, kind in matrices.items():
                width = 20 if block == "mlp" else 48
                sizes = (width, 32) if kind == "down" else (32, width)
                module = f"{PREFIX}.{layer}.{block}.experts.{expert}.{name}"
                tensors[f"{module}.lora_A.weight"] = torch.randn(3, sizes[0], generator=generator)
                tensors[f"{module}.lora_B.weight"] = torch.randn(sizes[1], 3, generator=generator) * 0.3
    folder.mkdir()
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 3, "lora_alpha": 6, "target_modules": list(matrices)}
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


QWEN = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
MIXTRAL = {"w1": "gate", "w3": "up", "w2": "down"}


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_adapters_of_modules_of_single_experts_are_merged_as_by_peft(family: str, tmp_path: Path) -> None:
    base = save_tiny_model(family, tmp_path / "base")
    names = (MIXTRAL, "block_sparse_moe", 4) if family == "mixtral" else (QWEN, "mlp", 6)
    adapter = per_expert_adapter(tmp_path / "peft", *names)
    arguments = ("--load-dir", base, "--lora-load", adapter, "--save-model-type", "hf", "--save-dir", tmp_path / "hf")
    assert convert_ckpt.main([str(argument) for argument in arguments]) == 0
    with torch.no_grad():
        actual = base_model(tmp_path / "hf")(TOKENS).logits
    torch.testing.assert_close(actual, logits(base, adapter), rtol=0, atol=1e-5)
    source, model = open_adapter(adapter), open_weights(base).model_config()
    # The same matrices by other names.
    run = AdapterConfig(lora_target_modules=("linear_fc1", "linear_fc2"), lora_r=3, lora_alpha=6.0)
    check_adapter(source, run, model)
    with pytest.raises(WeightsError, match=r"has lora_target_parameters=\['mlp.experts.down_proj', 'mlp.experts.gate_"):
        other = AdapterConfig(lora_target_parameters=("mlp.experts.down_proj",), lora_r=3, lora_alpha=6.0)
        check_adapter(source, other, model)


def _without(name: str) -> Any:
    return lambda tensors, config: tensors.pop(f"{PREFIX}.1.mlp.experts.{name}.weight")


def _router(tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    tensors[f"{PREFIX}.1.mlp.gate.lora_A.weight"] = torch.zeros(3, 32)


SPOILED: dict[str, tuple[Any, str]] = {
    "one expert less": (_without("2.up_proj.lora_A"), "layer 1 has no adapter of expert 2 in lora_A of up_proj"),
    "fewer experts": (
        lambda tensors, _: [tensors.pop(name) for name in list(tensors) if ".experts.5." in name],
        "gate_up_proj.lora_A.weight is [5, 6, 32], but the model expects [6, 6, 32]",
    ),
    "a shape": (
        lambda tensors, _: tensors.update({f"{PREFIX}.1.mlp.experts.2.up_proj.lora_A.weight": torch.zeros(2, 32)}),
        "layer 1 has adapters of several shapes in lora_A of up_proj",
    ),
    "the gate alone": (
        lambda tensors, _: [tensors.pop(name) for name in list(tensors) if "up_proj" in name],
        "has adapters of gate_proj of experts but none of up_proj",
    ),
    "the router": (_router, "an adapter of gate is not supported"),
    "another matrix": (
        lambda tensors, _: tensors.update({f"{PREFIX}.1.mlp.experts.2.norm.lora_A.weight": torch.zeros(2, 32)}),
        "an adapter of norm is not supported",
    ),
    "a stack that holds no experts": (
        lambda tensors, _: tensors.update({f"{PREFIX}.1.mlp.experts.lora_A.weight": torch.zeros(4, 20)}),
        "lora_A of model.layers.1.mlp.experts.down_proj is [4, 20], which does not hold experts of rank 3",
    ),
    "ranks by a pattern": (
        lambda _, config: config.update(rank_pattern={r".*\.gate_up_proj": 6}, alpha_pattern={}), "rank_pattern=",
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", SPOILED)
def test_what_cannot_be_read_is_named(how: str, tmp_path: Path) -> None:
    base = save_tiny_model("qwen3_moe", tmp_path / "base")
    adapter = per_expert_adapter(tmp_path / "peft", QWEN)
    spoil, sentence = SPOILED[how]
    tensors, config = load_file(adapter / WEIGHTS), json.loads((adapter / CONFIG).read_text())
    spoil(tensors, config)
    save_file(tensors, adapter / WEIGHTS, {"format": "pt"})
    (adapter / CONFIG).write_text(json.dumps(config))
    with pytest.raises(WeightsError) as raised:
        open_adapter(adapter).check(open_weights(base).model_config())
    assert sentence in str(raised.value)
