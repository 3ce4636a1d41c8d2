"""Adapters as files: PEFT's are read exactly and merged as PEFT merges, others are refused with the reason."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import convert_ckpt
from mindspeed_dpo.config.settings.lora import LORA_MODULES, AdapterConfig
from mindspeed_dpo.weights import WeightsError, open_adapter, open_weights
from mindspeed_dpo.weights.lora import check_adapter, write_peft
from tests.support.peft_adapters import base_model, loaded, save_random_adapter
from tests.support.tiny_models import save_tiny_model

pytestmark = pytest.mark.numerics

SOME = ("k_proj", "o_proj", "gate_proj", "down_proj")
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny model and an adapter of PEFT for it."""
    root = tmp_path_factory.mktemp("adapters")
    base = save_tiny_model("qwen2_tied", root / "base")
    return base, save_random_adapter(base, root / "peft", SOME, r=4, lora_alpha=3, use_rslora=True)


def convert(*arguments: object) -> int:
    return convert_ckpt.main([str(argument) for argument in arguments])


def test_an_adapter_is_written_as_it_was_read(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = folders
    source = open_adapter(adapter)
    assert source.settings == AdapterConfig(lora_target_modules=SOME, lora_r=4, lora_alpha=3.0, use_rslora=True)
    write_peft(source.tensors, source.settings, str(base), tmp_path / "again")
    first, second = load_file(adapter / WEIGHTS), load_file(tmp_path / "again" / WEIGHTS)
    assert first.keys() == second.keys() and all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    tokens = torch.tensor([[5, 1, 64, 92]])
    with torch.no_grad():
        assert torch.equal(loaded(base, adapter)(tokens).logits, loaded(base, tmp_path / "again")(tokens).logits)


@pytest.mark.parametrize("way", ["to Hugging Face", "by way of TP2 PP2"])
def test_merging_is_that_of_peft(way: str, folders: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = folders
    if way == "to Hugging Face":
        assert (
            convert(
                "--load-dir", base, "--lora-load", adapter, "--save-model-type", "hf", "--save-dir", tmp_path / "hf"
            )
            == 0
        )
    else:
        layout = ("--target-tensor-parallel-size", 2, "--target-pipeline-parallel-size", 2)
        assert convert("--load-dir", base, "--lora-load", adapter, "--save-dir", tmp_path / "mg", *layout) == 0
        assert convert("--load-dir", tmp_path / "mg", "--save-model-type", "hf", "--save-dir", tmp_path / "hf") == 0
    merged = loaded(base, adapter).merge_and_unload().state_dict()
    actual: dict[str, Tensor] = base_model(tmp_path / "hf").state_dict()
    assert actual.keys() == merged.keys()
    for name, tensor in merged.items():
        torch.testing.assert_close(actual[name], tensor, rtol=1e-6, atol=1e-6)
    tokens = torch.tensor([[5, 1, 64, 92]])
    with torch.no_grad():
        expected = loaded(base, adapter)(tokens).logits
        torch.testing.assert_close(base_model(tmp_path / "hf")(tokens).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("way", [True, False, "gaussian", "orthogonal", "eva"])
def test_initialisations_that_leave_the_base_alone_are_merged_as_by_peft(
    way: bool | str, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    base, _ = folders
    adapter = save_random_adapter(base, tmp_path / "peft", SOME, r=4, lora_alpha=3, init_lora_weights=way)
    assert json.loads((adapter / CONFIG).read_text())["init_lora_weights"] == way
    assert (
        convert("--load-dir", base, "--lora-load", adapter, "--save-model-type", "hf", "--save-dir", tmp_path / "hf")
        == 0
    )
    tokens = torch.tensor([[5, 1, 64, 92]])
    with torch.no_grad():
        expected = loaded(base, adapter)(tokens).logits
        torch.testing.assert_close(base_model(tmp_path / "hf")(tokens).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("way", ["pissa", "olora"])
def test_an_adapter_that_changed_the_base_is_refused(
    way: str, folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, _ = folders
    adapter = save_random_adapter(base, tmp_path / "peft", SOME, r=4, lora_alpha=3, init_lora_weights=way)
    assert convert("--load-dir", base, "--lora-load", adapter, "--save-dir", tmp_path / "mg") == convert_ckpt.FAILURE
    assert f"{adapter / CONFIG}: init_lora_weights='{way}' changes the base weights" in capsys.readouterr().err
    assert not (tmp_path / "mg").exists()


def test_flags_that_describe_the_adapter_must_agree_with_it(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, adapter = folders
    call = ("--load-dir", base, "--lora-load", adapter, "--save-dir", tmp_path / "out")
    assert convert(*call, "--lora-r", 4, "--lora-alpha", 3, "--lora-target-modules", *SOME) == 0
    for flags, sentence in (
        (("--lora-r", 8), "--lora-r is 8"),
        (("--lora-target-modules", "linear_qkv"), "--lora-target-modules is ("),
    ):
        assert convert(*call, "--overwrite", *flags) == convert_ckpt.FAILURE
        assert sentence in capsys.readouterr().err
    assert convert(*call, "--lora-target-modules", "lm_head") == convert_ckpt.USAGE
    assert convert(*call, "--save-lora-to-hf") == convert_ckpt.USAGE
    assert "give --save-model-type hf" in capsys.readouterr().err


Spoil = Callable[[dict[str, Any], dict[str, Tensor]], Any]
SPOILED: dict[str, tuple[Spoil, str]] = {
    "another method": (lambda config, _: config.update(peft_type="LOHA"), "only LORA without biases"),
    "biases": (lambda config, _: config.update(bias="all"), "only LORA without biases"),
    "DoRA": (lambda config, _: config.update(use_dora=True), "use_dora=True is not supported"),
    "ranks by pattern": (lambda config, _: config.update(rank_pattern={"q": 1}), "rank_pattern="),
    "DoRA by its newer variants": (lambda config, _: config.update(kasa_config={"beta": 1e-4}), "kasa_config="),
    "a variant of a later release": (lambda config, _: config.update(use_something=True), "use_something=True is not"),
    "weights saved beside it": (lambda config, _: config.update(modules_to_save=["lm_head"]), "modules_to_save="),
    "some layers": (lambda config, _: config.update(layers_to_transform=[0]), "layers_to_transform=[0]"),
    "scales by pattern": (lambda config, _: config.update(alpha_pattern={"q_proj": 8}), "alpha_pattern="),
    **{
        f"base weights changed by {way}": (
            lambda config, _, way=way: config.update(init_lora_weights=way),
            f"init_lora_weights='{way}' changes the base weights",
        )
        for way in ("pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "of_a_later_release")
    },
    "an initialisation that is no text": (lambda config, _: config.update(init_lora_weights=[1]), "init_lora_weights="),
    "a rank that is no number": (lambda config, _: config.update(r="4"), "r must be an integer"),
    "a rank of zero": (lambda config, _: config.update(r=0), "r must be an integer of at least 1"),
    "no rank": (lambda config, _: config.pop("r"), "is not a configuration of a LoRA adapter"),
    "an embedding": (
        lambda _, tensors: tensors.update({"base_model.model.model.embed_tokens.lora_A.weight": torch.zeros(4, 32)}),
        "only LoRA of linear layers",
    ),
    "quantised weights": (
        lambda _, tensors: tensors.update({name: tensors[name].to(torch.int8) for name in sorted(tensors)[:1]}),
        "is stored as int8; save the adapter in bfloat16 or float32",
    ),
    "a tensor less": (lambda _, tensors: tensors.pop(sorted(tensors)[0]), "lacks model.layers.0"),
    "another shape": (
        lambda _, tensors: tensors.update({sorted(tensors)[0]: torch.zeros(4, 3)}),
        "is [4, 3], but the model expects [4, ",
    ),
}


@pytest.mark.parametrize("how", SPOILED)
def test_what_is_no_plain_lora_of_the_model_is_refused(how: str, folders: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = folders
    spoil, sentence = SPOILED[how]
    copy = shutil.copytree(adapter, tmp_path / "copy")
    config, tensors = json.loads((copy / CONFIG).read_text()), load_file(copy / WEIGHTS)
    spoil(config, tensors)
    (copy / CONFIG).write_text(json.dumps(config))
    save_file(tensors, copy / WEIGHTS)
    with pytest.raises(WeightsError, match=re.escape(sentence)):
        open_adapter(copy).check(open_weights(base).model_config())


def test_an_adapter_of_another_kind_than_the_run_wants_is_refused(folders: tuple[Path, Path]) -> None:
    source, model = open_adapter(folders[1]), open_weights(folders[0]).model_config()
    with pytest.raises(WeightsError, match=r"has lora_r=4, but the run has 16; set lora_r=4"):
        check_adapter(source, AdapterConfig(lora_target_modules=LORA_MODULES), model)
    check_adapter(source, source.settings, model)


def test_an_adapter_is_not_taken_for_a_model_and_a_model_not_for_an_adapter(folders: tuple[Path, Path]) -> None:
    base, adapter = folders
    with pytest.raises(WeightsError, match="is an adapter, not a model"):
        open_weights(adapter)
    with pytest.raises(WeightsError, match="holds no adapter"):
        open_adapter(base)
