"""An expert that is missing, stored twice or one too many is named with its layer; nothing half-done is left."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mindspeed_dpo.weights import ParallelLayout, WeightsError, open_weights
from mindspeed_dpo.weights.conversion.conversion_request import ConversionRequest
from mindspeed_dpo.weights.conversion.convert import convert
from mindspeed_dpo.weights.legacy import legacy_writer
from mindspeed_dpo.weights.legacy.expert_storage import ExpertDivision, ExpertForm, ExpertStorage
from mindspeed_dpo.weights.name_mapping import local_entries
from mindspeed_dpo.weights.weight_source import WeightSource
from tests.support.tiny_models import tiny_model

HfFolder = Callable[[str], Path]
LAYER, LOCAL = "decoder.layers.1.mlp.experts.", "decoder.layers.1.mlp.experts.local_experts."


def edit(checkpoint: Path, rank: str, change: Callable[[dict[str, Any]], object]) -> None:
    file = checkpoint / "iter_0000001" / rank / "model_optim_rng.pt"
    content = torch.load(file, weights_only=False)
    change(content)
    torch.save(content, file)


def write(hf: Path, target: Path, form: ExpertForm = ExpertForm.PER_EXPERT) -> Path:
    """Six experts on two tensor- times two expert-parallel ranks, three in each file."""
    convert(ConversionRequest(hf, target, layout=ParallelLayout(2, 1, ep=2), storage=ExpertStorage(form)))
    return target


def assert_refused(checkpoint: Path, words: str) -> None:
    """Neither converting nor a rank of a training run reads the weights."""
    hf = checkpoint / "hf"
    with pytest.raises(WeightsError, match=words):
        convert(ConversionRequest(checkpoint, checkpoint.parent / "out", save_format="hf", hf_config_dir=hf))
    assert not (checkpoint.parent / "out").exists()
    source, layout = open_weights(checkpoint), ParallelLayout(ep=3)
    model = open_weights(checkpoint.parent / "source").model_config()
    with pytest.raises(WeightsError, match=words):
        dict(source.local_tensors(model, layout.placement(model.num_layers, 0, 0, ep_rank=2)))


@pytest.fixture
def source(hf_folder: HfFolder, tmp_path: Path) -> Path:
    return shutil.copytree(hf_folder("qwen3_moe"), tmp_path / "source")


@pytest.mark.parametrize(
    ("form", "change", "words"),
    [
        (
            ExpertForm.PER_EXPERT,
            lambda state: state.pop(f"{LOCAL}2.linear_fc2.weight"),
            r"1 tensors are missing: mp_rank_01_001:.*local_experts.2.linear_fc2.weight \(expert 5 of layer 1\)",
        ),
        (
            ExpertForm.NUMBERED,
            lambda state: state.pop(f"{LAYER}linear_fc1.weight0"),
            r"1 tensors are missing: mp_rank_01_001:.*linear_fc1.weight0 \(expert 3 of layer 1\)",
        ),
        (
            ExpertForm.GROUPED,
            lambda state: state.pop(f"{LAYER}weight1"),
            r"1 tensors are missing: mp_rank_01_001:.*weight1 \(experts 3 to 5 of layer 1\)",
        ),
        (
            ExpertForm.PER_EXPERT,
            lambda state: state.update({f"{LOCAL}3.linear_fc2.weight": torch.ones(32, 10)}),
            r"unexpected: mp_rank_01_001:.*experts.3.*\(layer 1; the file should hold its experts 3 to 5, each once\)",
        ),
        (
            ExpertForm.PER_EXPERT,
            lambda state: state.update({f"{LAYER}weight1": torch.ones(32, 60)}),
            r"unexpected: mp_rank_01_001:.*weight1 \(layer 1; the file should hold its experts 3 to 5, each once\)",
        ),
        (
            ExpertForm.GROUPED,
            lambda state: state.update({f"{LAYER}weight2": state[f"{LAYER}weight2"][:20]}),
            r"mp_rank_01_001/.*weight2 \(expert 3 of layer 1\) is \[20, 32\], but the model expects \[30, 32\]",
        ),
    ],
)
def test_a_rank_file_with_other_experts_is_refused(
    source: Path, form: ExpertForm, change: Callable[[dict[str, Any]], object], words: str, tmp_path: Path
) -> None:
    checkpoint = write(source, tmp_path / "mg", form)
    edit(checkpoint, "mp_rank_01_001", lambda content: change(content["model"]))
    assert_refused(checkpoint, words)


def test_experts_in_two_forms_or_an_ambiguous_one_are_refused(source: Path, tmp_path: Path) -> None:
    checkpoint = write(source, tmp_path / "mg")
    first = checkpoint / "iter_0000001/mp_rank_00_000"
    edit(checkpoint, first.name, lambda content: setattr(content["args"], "moe_tp_extend_ep", True))
    assert_refused(checkpoint, "combines moe_tp_extend_ep with local_experts.* disagree about the parts of an expert")
    twice = {"decoder.layers.0.mlp.experts.weight2": torch.ones(30, 32)}
    edit(checkpoint, first.name, lambda content: content["model"].update(twice))
    assert_refused(checkpoint, "holds the experts of decoder.layers.0 twice, as local_experts.* and as weight1 and")


def test_another_number_of_experts_is_refused(source: Path, tmp_path: Path) -> None:
    checkpoint = write(source, tmp_path / "mg")
    edit(checkpoint, "mp_rank_00_000", lambda content: setattr(content["args"], "num_experts", 8))
    assert_refused(checkpoint, "holds 8 experts of each layer, but the model has 6")
    edit(checkpoint, "mp_rank_00_000", lambda content: setattr(content["args"], "num_experts", None))
    assert_refused(
        checkpoint, "holds no experts of each layer, but the model has 6|holds experts, but args have num_ex"
    )


def test_fused_and_single_experts_together_are_refused(source: Path, tmp_path: Path) -> None:
    fused = tmp_path / "fused"
    tiny_model("qwen3_moe").save_pretrained(fused, save_original_format=False)
    convert(ConversionRequest(fused, tmp_path / "mg", layout=ParallelLayout(2, 2, ep=2)))
    convert(ConversionRequest(tmp_path / "mg", tmp_path / "back", save_format="hf"))
    back, single = load_file(tmp_path / "back/model.safetensors"), load_file(source / "model.safetensors")
    assert back.keys() == single.keys() and all(torch.equal(back[name], single[name]) for name in single)
    name = "model.layers.1.mlp.experts.5.up_proj.weight"
    stored = load_file(fused / "model.safetensors")
    save_file({**stored, name: single[name]}, fused / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=f"1 tensors are unexpected: {name}"):
        convert(ConversionRequest(fused, tmp_path / "mg2"))
    stored["model.layers.0.mlp.experts.down_proj"] = stored["model.layers.0.mlp.experts.down_proj"][:5].clone()
    save_file(stored, fused / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"layers.0.mlp.experts.down_proj.* is \[5, 32, 20\].* \[6, 32, 20\]"):
        convert(ConversionRequest(fused, tmp_path / "mg2"))


def test_loose_loading_tolerates_no_missing_expert(source: Path, tmp_path: Path) -> None:
    stored = load_file(source / "model.safetensors")
    name = "model.layers.0.mlp.experts.2.down_proj.weight"
    del stored[name]
    save_file(stored, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=f"1 tensors are missing: {name}"):
        convert(ConversionRequest(source, tmp_path / "mg", loosely=True))


def test_an_expert_that_was_not_written_is_noticed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_one(*arguments: Any) -> Any:
        return (item for item in local_entries(*arguments) if (item[1].layer, item[1].expert) != (1, 4))

    monkeypatch.setattr(legacy_writer, "local_entries", without_one)
    with pytest.raises(WeightsError, match=r"\(expert 4 of layer 1\) was written 0 times for tensor-parallel rank 0"):
        write(source, tmp_path / "mg")
    assert not (tmp_path / "mg").exists()


@pytest.mark.parametrize(("times", "name"), [(0, "experts.4.down_proj"), (2, "experts.2.up_proj")])
def test_an_expert_that_does_not_reach_the_hugging_face_folder_once_is_noticed(
    times: int, name: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, stored = write(source, tmp_path / "mg"), f"model.layers.1.mlp.{name}.weight"
    read = WeightSource._hf_tensors

    def with_one_so_many_times(*arguments: Any) -> Any:
        for key, tensor in read(*arguments):
            yield from [(key, tensor)] * (times if key == stored else 1)

    monkeypatch.setattr(WeightSource, "_hf_tensors", with_one_so_many_times)
    with pytest.raises(WeightsError, match=rf"{stored} was written {times} times"):
        convert(ConversionRequest(checkpoint, tmp_path / "hf", save_format="hf"))
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize("name", ["kv_lora_rank", "multi_latent_attention"])
def test_rank_files_with_latent_attention_are_refused(name: str, source: Path, tmp_path: Path) -> None:
    checkpoint = write(source, tmp_path / "mg")
    edit(checkpoint, "mp_rank_00_000", lambda content: setattr(content["args"], name, 512))
    with pytest.raises(WeightsError, match=r"the model has multi-latent attention .* which is not implemented"):
        open_weights(checkpoint).model_config()


def test_files_of_other_writers_are_read(hf_folder: HfFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Names of MindSpeed-LLM in the args, the gate's older name, and layers that predict further tokens."""
    checkpoint, prefix = write(hf_folder("qwen2_moe"), tmp_path / "mg"), "decoder.layers.{}.mlp.shared_expert"

    def age(content: dict[str, Any]) -> None:
        args, state = vars(content["args"]), content["model"]
        for name in ("moe_ffn_hidden_size", "moe_router_score_function", "moe_router_num_groups", "rotary_percent"):
            del args[name]
        args.update(moe_layer_freq=[1, 1], moe_router_pre_softmax=None, moe_tp_extend_ep=None)
        for layer in range(2):
            state[prefix.format(layer) + "_gate.weight"] = state.pop(prefix.format(layer) + "s.gate_weight")
        state.update({"mtp.layers.0.weight": torch.ones(2), f"{LAYER}linear_fc1._extra_state": None})

    for file in checkpoint.glob("iter_*/*"):
        edit(checkpoint, file.name, age)
    assert open_weights(checkpoint).model_config() == open_weights(hf_folder("qwen2_moe")).model_config()
    with pytest.raises(WeightsError, match=r"holds 4 tensors of layers that predict further tokens \(MTP\): mp_rank"):
        convert(ConversionRequest(checkpoint, tmp_path / "hf", save_format="hf"))
    convert(ConversionRequest(checkpoint, tmp_path / "hf", save_format="hf", drop_mtp_layers=True))
    assert "mp_rank_00_000:mtp.layers.0.weight" in caplog.text and "they are not read" in caplog.text
    result, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path / "hf", hf_folder("qwen2_moe")))
    assert result.keys() == expected.keys() and all(torch.equal(result[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("layout", "division", "words"),
    [
        (ParallelLayout(ep=4), ExpertDivision.SLICED, "the expert-parallel size 4 does not divide num_experts=6"),
        (
            ParallelLayout(2, ep=2),
            ExpertDivision.EXTENDED,
            r"\(moe_tp_extend_ep\) 4 does not divide num_experts=6",
        ),
        (
            ParallelLayout(2, ep=3),
            ExpertDivision.UNSLICED,
            "size 2 or the expert-parallel size 3 must divide the other",
        ),
    ],
)
def test_layouts_that_experts_do_not_allow_are_refused(
    source: Path, layout: ParallelLayout, division: ExpertDivision, words: str, tmp_path: Path
) -> None:
    storage = ExpertStorage(ExpertForm.GROUPED, division)
    with pytest.raises(WeightsError, match=words):
        convert(ConversionRequest(source, tmp_path / "mg", layout=layout, storage=storage))
    assert not (tmp_path / "mg").exists()
