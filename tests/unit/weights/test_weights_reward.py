"""Reward models through the converter and the sources: `score.weight` and `rm_head`, there and back bit by bit."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from convert_ckpt import FAILURE, main
from mindspeed_dpo.weights import HfConfigError, ParallelLayout, WeightsError, open_weights
from mindspeed_dpo.weights.conversion.conversion_request import ConversionRequest
from mindspeed_dpo.weights.conversion.convert import convert
from tests.support.reward_models import save_tiny_reward_model
from tests.support.tiny_models import save_tiny_model
from tests.unit.weights.training_checkpoints import write_training_checkpoint

pytestmark = pytest.mark.numerics

HfFolder = Callable[[str], Path]
LAYOUTS = {
    "tp1": ParallelLayout(),
    "tp2": ParallelLayout(2, 1),
    "tp4pp2": ParallelLayout(4, 2),
    "virtual": ParallelLayout(2, 2, layers_per_virtual_stage=1),
    "list": ParallelLayout(1, 2, num_layer_list=(3, 1)),
    "noops": ParallelLayout(1, 2, noop_layers=(1, 5)),
}


@cache
def reward_folder(name: str) -> Path:
    return save_tiny_reward_model(name, Path(mkdtemp(prefix="reward_weights_")) / name)


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def to_mcore(folder: Path, target: Path, layout: ParallelLayout) -> Path:
    convert(ConversionRequest(folder, target, layout=layout, reward_model=True))
    return target


def to_hf(checkpoint: Path, target: Path) -> Path:
    convert(ConversionRequest(checkpoint, target, save_format="hf", reward_model=True))
    return target


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype and torch.equal(actual[name], tensor), name


def read(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def rank_files(checkpoint: Path) -> dict[str, dict[str, dict[str, Tensor]]]:
    files = {}
    for file in sorted(checkpoint.glob("iter_*/*/model_optim_rng.pt")):
        content = torch.load(file, weights_only=False)
        files[file.parent.name] = {key: value for key, value in content.items() if key.startswith("model")}
    return files


def edit_rank_files(checkpoint: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    for file in sorted(checkpoint.glob("iter_*/*/model_optim_rng.pt")):
        content = torch.load(file, weights_only=False)
        change(content["model"])
        torch.save(content, file)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["llama", "llama_tied", "mistral", "qwen2", "qwen3"])
def test_to_megatron_and_back_changes_no_bit(name: str, layout: str, tmp_path: Path) -> None:
    checkpoint = to_mcore(reward_folder(name), tmp_path / "mg", LAYOUTS[layout])
    result = to_hf(checkpoint, tmp_path / "hf")
    assert "score.weight" in read(result)
    assert_same(read(result), read(reward_folder(name)))
    written, original = (json.loads((folder / "config.json").read_text()) for folder in (result, reward_folder(name)))
    assert written == {**original, "torch_dtype": "float32"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_the_last_stage_has_the_head_split_along_its_input(layout: str, tmp_path: Path) -> None:
    wanted = LAYOUTS[layout]
    files = rank_files(to_mcore(reward_folder("llama_tied"), tmp_path, wanted))
    pieces = []
    for rank, chunks in files.items():
        *others, last = chunks.values()
        is_last = wanted.pp == 1 or rank.endswith(f"_{wanted.pp - 1:03d}")
        assert ("rm_head.weight" in last) == is_last and not any("rm_head.weight" in chunk for chunk in others)
        assert not any("output_layer.weight" in chunk for chunk in chunks.values())
        if is_last:
            pieces.append(last["rm_head.weight"])
            assert torch.equal(last["rm_head.bias"], torch.zeros(1))
    assert torch.equal(torch.cat(pieces, dim=1), read(reward_folder("llama_tied"))["score.weight"])


def test_resharding_equals_direct_conversion(tmp_path: Path) -> None:
    first = to_mcore(reward_folder("qwen3"), tmp_path / "first", LAYOUTS["virtual"])
    actual = rank_files(to_mcore(first, tmp_path / "second", LAYOUTS["tp4pp2"]))
    expected = rank_files(to_mcore(reward_folder("qwen3"), tmp_path / "direct", LAYOUTS["tp4pp2"]))
    assert actual.keys() == expected.keys()
    for rank, chunks in expected.items():
        assert_same(actual[rank]["model"], chunks["model"])


def test_transformers_loads_the_complete_result(tmp_path: Path) -> None:
    result = to_hf(to_mcore(reward_folder("qwen2"), tmp_path / "mg", ParallelLayout(2, 2)), tmp_path / "hf")
    models = []
    for folder in (reward_folder("qwen2"), result):
        model, report = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
        assert not any(report.values()), report
        models.append(model)
    tokens = torch.arange(30)[None]
    with torch.no_grad():
        one, other = (model(tokens).logits for model in models)
    assert one.shape == (1, 1) and torch.equal(one, other)


def test_the_published_call_works_there_and_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    source = shutil.copytree(reward_folder("llama"), tmp_path / "source")
    (source / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}}))
    assert run("--use-mcore-models", "--model-type", "GPT", "--model-type-hf", "llama2", "--load-model-type", "hf",
               "--save-model-type", "mg", "--target-tensor-parallel-size", 2, "--orm",
               "--load-dir", source, "--save-dir", tmp_path / "mg") == 0  # fmt: skip
    assert "rm_head.bias is written as 0" in caplog.text
    shutil.rmtree(source)
    assert run("--load-dir", tmp_path / "mg", "--save-model-type", "hf", "--orm", "--save-dir", tmp_path / "hf") == 0
    assert (tmp_path / "hf/tokenizer.json").is_file()
    assert_same(read(tmp_path / "hf"), read(reward_folder("llama")))


def test_a_bias_is_copied_between_layouts_and_its_loss_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = to_mcore(reward_folder("llama"), tmp_path / "mg", ParallelLayout(2, 2))
    to_hf(checkpoint, tmp_path / "none_lost")
    assert "dropped" not in caplog.text
    edit_rank_files(checkpoint, lambda model: "rm_head.bias" in model and model["rm_head.bias"].fill_(0.75))
    files = rank_files(to_mcore(checkpoint, tmp_path / "other", ParallelLayout(1, 1)))
    assert files["mp_rank_00"]["model"]["rm_head.bias"].tolist() == [0.75]
    result = to_hf(checkpoint, tmp_path / "hf")
    assert "rm_head.bias is [0.75] and cannot be stored in a Hugging Face folder; it is dropped" in caplog.text
    assert_same(read(result), read(reward_folder("llama")))


def test_an_output_layer_and_an_absent_bias_of_old_files_do_not_matter(tmp_path: Path) -> None:
    checkpoint = to_mcore(reward_folder("llama"), tmp_path / "mg", ParallelLayout(2, 1))
    edit_rank_files(checkpoint, lambda model: model.update({"output_layer.weight": torch.full((47, 32), torch.nan)}))
    edit_rank_files(checkpoint, lambda model: model.pop("rm_head.bias"))
    assert_same(read(to_hf(checkpoint, tmp_path / "hf")), read(reward_folder("llama")))
    files = rank_files(to_mcore(checkpoint, tmp_path / "again", ParallelLayout(1, 2)))
    assert "output_layer.weight" not in files["mp_rank_00_001"]["model"]
    assert files["mp_rank_00_001"]["model"]["rm_head.bias"].tolist() == [0.0]


def test_a_checkpoint_trained_from_a_language_model_is_exported_with_a_classifiers_config(tmp_path: Path) -> None:
    checkpoint = to_mcore(reward_folder("qwen3"), tmp_path / "mg", ParallelLayout())
    shutil.rmtree(checkpoint / "hf")
    base = save_tiny_model("qwen3", tmp_path / "base")
    target = tmp_path / "hf"
    assert run("--load-dir", checkpoint, "--save-model-type", "hf", "--orm", "--hf-cfg-dir", base,
               "--save-dir", target) == 0  # fmt: skip
    model, report = AutoModelForSequenceClassification.from_pretrained(target, output_loading_info=True)
    assert not any(report.values()) and model.num_labels == 1
    assert json.loads((target / "config.json").read_text())["architectures"] == ["Qwen3ForSequenceClassification"]


@pytest.mark.slow
def test_training_checkpoints_of_reward_models_read_like_their_origin(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint"
    write_training_checkpoint(reward_folder("qwen2"), target, 2, stacked=True)
    hf, dist = open_weights(reward_folder("qwen2")), open_weights(target)
    assert dist.is_reward_model
    model = hf.model_config()
    for tp_rank in range(2):
        for _, _, placement in ParallelLayout(2, 2).stages(4, tp_rank):
            assert_same(dict(dist.local_tensors(model, placement)), dict(hf.local_tensors(model, placement)))
    assert_same(dict(dist.hf_tensors(model)), dict(hf.hf_tensors(model)))


def test_every_form_says_whether_it_is_a_reward_model(hf_folder: HfFolder, tmp_path: Path) -> None:
    assert open_weights(reward_folder("llama")).is_reward_model
    assert open_weights(to_mcore(reward_folder("llama"), tmp_path / "reward", ParallelLayout(2, 2))).is_reward_model
    assert not open_weights(hf_folder("llama")).is_reward_model
    convert(ConversionRequest(hf_folder("llama"), tmp_path / "language", layout=ParallelLayout(2, 2)))
    assert not open_weights(tmp_path / "language").is_reward_model
    bare = shutil.copytree(reward_folder("llama"), tmp_path / "bare")
    (bare / "config.json").unlink()
    assert open_weights(bare).is_reward_model


@pytest.mark.parametrize("form", ["hf", "mg"])
def test_a_head_that_is_not_the_requested_one_is_reported(
    hf_folder: HfFolder, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    language, reward = hf_folder("llama"), reward_folder("llama")
    if form == "mg":
        convert(ConversionRequest(language, tmp_path / "language"))
        language, reward = tmp_path / "language", to_mcore(reward, tmp_path / "reward", ParallelLayout())
    assert run("--load-dir", language, "--save-dir", tmp_path / "out", "--orm") == FAILURE
    assert "holds a language model, but --orm expects a reward model" in capsys.readouterr().err
    assert run("--load-dir", reward, "--save-dir", tmp_path / "out") == FAILURE
    assert "holds a reward model; give --orm" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_classifier_of_several_labels_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_tiny_reward_model("llama", tmp_path / "hf", num_labels=3)
    assert run("--load-dir", folder, "--save-dir", tmp_path / "out", "--orm") == FAILURE
    assert "a classifier of 3 labels; a reward model has num_labels 1" in capsys.readouterr().err
    with pytest.raises(HfConfigError, match="3 labels"):
        _ = open_weights(folder).is_reward_model


def changed(change: Callable[[dict[str, Any]], object], folder: Path) -> Path:
    shutil.copytree(reward_folder("llama"), folder)
    tensors = read(folder)
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.pop("score.weight"), r"1 tensors are missing: score.weight"),
        (lambda tensors: tensors.update({"score.bias": torch.ones(1)}), r"1 tensors are unexpected: score.bias"),
        (lambda tensors: tensors.update({"score.weight": torch.ones(2, 32)}), r"score.weight is \[2, 32\].* \[1, 32\]"),
        (lambda tensors: tensors.pop("model.norm.weight"), r"missing: model.norm.weight"),
    ],
    ids=["no head", "a bias", "two labels", "no final norm"],
)
def test_heads_that_do_not_fit_are_named(
    change: Callable[[dict[str, Any]], object], words: str, tmp_path: Path
) -> None:
    source = open_weights(changed(change, tmp_path / "hf"))
    with pytest.raises(WeightsError, match=words):
        source.check(source.model_config())


@pytest.mark.parametrize("form", ["hf", "mg"])
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "absent"])
def test_a_final_norm_that_is_not_used_may_be_there_or_not(form: str, stored: bool, tmp_path: Path) -> None:
    if form == "hf":
        folder = changed(lambda tensors: stored or tensors.pop("model.norm.weight"), tmp_path / "hf")
    else:
        folder = to_mcore(reward_folder("llama"), tmp_path / "mg", ParallelLayout(2, 1))
        edit_rank_files(folder, lambda model: stored or model.pop("decoder.final_layernorm.weight"))
    source = open_weights(folder)
    source.final_norm = False
    names = [name for name, _ in source.local_tensors(source.model_config(), ParallelLayout().placement(4, 0, 0))]
    assert "rm_head.weight" in names and "decoder.final_layernorm.weight" not in names
