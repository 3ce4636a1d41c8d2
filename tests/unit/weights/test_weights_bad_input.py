"""Missing, damaged and unfit weights get a sentence with file and tensor, and leave nothing half-done."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights import ParallelLayout, WeightsError, open_weights
from mindspeed_dpo.weights.conversion.conversion_request import ConversionRequest
from mindspeed_dpo.weights.conversion.convert import convert
from mindspeed_dpo.weights.dtype_cast import cast_tensor
from mindspeed_dpo.weights.hf import hf_writer
from mindspeed_dpo.weights.legacy.torch_archive_writer import TorchArchiveWriter
from tests.support.tiny_models import save_tiny_model

HfFolder = Callable[[str], Path]


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return save_tiny_model("llama", tmp_path / "sharded", max_shard_size="40KB")


@pytest.fixture
def single(hf_folder: HfFolder, tmp_path: Path) -> Path:
    return shutil.copytree(hf_folder("llama"), tmp_path / "single")


@pytest.fixture
def checkpoint(hf_folder: HfFolder, tmp_path: Path) -> Path:
    convert(ConversionRequest(hf_folder("llama"), tmp_path / "mg", layout=ParallelLayout(2, 2)))
    return tmp_path / "mg"


def load(folder: Path, **changes: Any) -> dict[str, Tensor]:
    source = open_weights(folder)
    model = ModelConfig(**{**source.model_config().as_dict(), **changes})
    return dict(source.local_tensors(model, ParallelLayout().placement(model.num_layers, 0, 0)))


def edit(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit_rank(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = torch.load(file, weights_only=False)
    change(content)
    torch.save(content, file)


def test_a_missing_shard_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(WeightsError, match=rf"lacks {shard.name}"):
        load(sharded)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.uint8, torch.int32])
def test_quantised_weights_are_refused(dtype: torch.dtype, single: Path, tmp_path: Path) -> None:
    """Their scales may lie anywhere; read as numbers they would be another model."""
    name = "model.layers.0.self_attn.k_proj.weight"
    edit(single, lambda tensors: tensors.update({name: tensors[name].to(dtype)}))
    with pytest.raises(WeightsError, match=rf"{name} is stored as \w+; give weights that are not quantised"):
        convert(ConversionRequest(single, tmp_path / "mg", dtype=torch.bfloat16))
    shard = single / "model.safetensors"
    torch.save(load_file(shard), single / "pytorch_model.bin")
    shard.unlink()
    with pytest.raises(
        WeightsError, match=rf"{name} is stored as \w+; give weights|_rebuild_tensor_v3, which is not data"
    ):
        load(single)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"])
@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a link that leads nowhere"])
def test_what_is_no_file_is_named_before_anything_is_written(
    name: str, kind: str, single: Path, tmp_path: Path
) -> None:
    path = single / name
    path.unlink(missing_ok=True)
    make = {"a folder": path.mkdir, "a pipe": lambda: os.mkfifo(path)}
    make.get(kind, lambda: path.symlink_to("../blobs/absent"))()
    with pytest.raises(ValueError, match=f"{path} is {kind}, where a file is expected"):
        convert(ConversionRequest(single, tmp_path / "new" / "mg"))
    assert not (tmp_path / "new").exists()


def test_a_truncated_shard_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=rf"{shard.name} is damaged or truncated"):
        load(sharded)


def test_an_index_may_not_lead_outside_its_folder(sharded: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.norm.weight"] = "../elsewhere.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=r"lacks ../elsewhere.safetensors"):
        load(sharded)


def test_an_index_that_contradicts_its_shards_is_refused(sharded: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    first = sorted(set(content["weight_map"].values()))[0]
    content["weight_map"]["invented.weight"] = first
    index.write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=rf"{first} lacks invented.weight"):
        load(sharded)


def test_a_missing_tensor_is_named(single: Path) -> None:
    edit(single, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(WeightsError, match=r"1 tensors are missing: model.layers.1.mlp.up_proj.weight"):
        load(single)


def test_an_unexpected_tensor_is_named(single: Path) -> None:
    edit(single, lambda tensors: tensors.update({"model.layers.0.mlp.gate_proj.bias": torch.ones(2)}))
    with pytest.raises(WeightsError, match=r"1 tensors are unexpected: model.layers.0.mlp.gate_proj.bias"):
        load(single)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(single: Path) -> None:
    with pytest.raises(WeightsError, match=r"model.safetensors: .*gate_proj.weight is \[48, 32\].* expects \[40, 32\]"):
        load(single, ffn_hidden_size=40)
    with pytest.raises(WeightsError, match=r"embed_tokens.weight is \[93, 32\].* expects \[128, 32\]"):
        load(single, vocab_size=128)


def test_another_number_of_layers_is_reported(single: Path, checkpoint: Path) -> None:
    with pytest.raises(WeightsError, match=r"5-layer model; 9 tensors are missing: model.layers.4"):
        load(single, num_layers=5)
    with pytest.raises(WeightsError, match=r"9 tensors are unexpected: .*model.layers.3"):
        load(single, num_layers=3)
    with pytest.raises(WeightsError, match=r"holds 4 layers, but the model has 6"):
        load(checkpoint, num_layers=6)


def test_groups_that_do_not_divide_are_reported(single: Path) -> None:
    source = open_weights(single)
    with pytest.raises(WeightsError, match=r"tensor-parallel size 8 does not divide num_query_groups=4"):
        source.local_tensors(source.model_config(), ParallelLayout(tp=8).placement(4, 0, 0))


def test_a_missing_tracker_stops(checkpoint: Path) -> None:
    (checkpoint / "latest_checkpointed_iteration.txt").unlink()
    with pytest.raises(WeightsError, match=r"has iterations but no latest_checkpointed_iteration.txt"):
        open_weights(checkpoint)


def test_looking_for_weights_changes_nothing(checkpoint: Path) -> None:
    (checkpoint / "latest_checkpointed_iteration.txt").write_text("7")
    before = sorted(checkpoint.rglob("*"))
    with pytest.raises(WeightsError, match=r"iter_0000007 does not exist"):
        open_weights(checkpoint)
    assert sorted(checkpoint.rglob("*")) == before
    (checkpoint / "latest_checkpointed_iteration.txt").write_text("latest")
    with pytest.raises(WeightsError, match=r"must hold a number or the word release, got 'latest'"):
        open_weights(checkpoint)


def test_folders_without_weights_are_reported_with_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds no weights; expected config.json"):
        open_weights(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist"):
        open_weights(tmp_path / "nowhere")


def test_missing_and_foreign_rank_files_are_listed(checkpoint: Path) -> None:
    folder = checkpoint / "iter_0000001"
    shutil.copytree(folder / "mp_rank_01_001", folder / "mp_rank_07_001")
    shutil.rmtree(folder / "mp_rank_01_001")
    with pytest.raises(WeightsError, match=r"TP 2 x PP 2 .*missing: mp_rank_01_001; .*layout: mp_rank_07_001"):
        load(checkpoint)


def test_a_truncated_rank_file_is_named(checkpoint: Path) -> None:
    file = checkpoint / "iter_0000001/mp_rank_01_001/model_optim_rng.pt"
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(
        WeightsError, match=r"mp_rank_01_001/model_optim_rng.pt is not a file of torch.save, or is trun"
    ):
        load(checkpoint)


def test_a_missing_tensor_of_a_rank_is_named_with_its_rank(checkpoint: Path) -> None:
    file = checkpoint / "iter_0000001/mp_rank_01_000/model_optim_rng.pt"
    edit_rank(file, lambda content: content["model"].pop("decoder.layers.1.mlp.linear_fc2.weight"))
    with pytest.raises(WeightsError, match=r"missing: mp_rank_01_000:decoder.layers.1.mlp.linear_fc2.weight"):
        load(checkpoint)


def test_a_shard_of_another_shape_is_named(checkpoint: Path) -> None:
    file = checkpoint / "iter_0000001/mp_rank_01_000/model_optim_rng.pt"
    name = "decoder.layers.1.mlp.linear_fc2.weight"
    edit_rank(file, lambda content: content["model"].update({name: torch.ones(32, 20)}))
    with pytest.raises(WeightsError, match=rf"mp_rank_01_000/.*{name} is \[32, 20\].* expects \[32, 24\]"):
        load(checkpoint)


def test_other_things_than_tensors_are_named(checkpoint: Path) -> None:
    file = checkpoint / "iter_0000001/mp_rank_01_000/model_optim_rng.pt"
    edit_rank(file, lambda content: content["model"].update({"decoder.layers.0.input_layernorm.weight": [1.0]}))
    with pytest.raises(WeightsError, match=r"mp_rank_01_000/.*input_layernorm.weight is a list, expected a tensor"):
        load(checkpoint)


def test_args_that_make_no_sense_are_reported(checkpoint: Path) -> None:
    for file in checkpoint.rglob("*.pt"):
        edit_rank(file, lambda content: setattr(content["args"], "noop_layers", "one"))
    with pytest.raises(WeightsError, match=r"'one' where a list of numbers is expected"):
        load(checkpoint)
    for file in checkpoint.rglob("*.pt"):
        edit_rank(file, lambda content: setattr(content["args"], "num_layers", torch.device("cpu")))
    with pytest.raises(WeightsError, match=r"args lack num_layers"):
        load(checkpoint)


def test_old_checkpoint_versions_are_refused(checkpoint: Path) -> None:
    for file in checkpoint.rglob("*.pt"):
        edit_rank(file, lambda content: content.update(checkpoint_version=2.0))
    with pytest.raises(WeightsError, match=r"checkpoint_version 2.0"):
        load(checkpoint)


def test_an_absent_epsilon_is_not_guessed(checkpoint: Path) -> None:
    for file in checkpoint.rglob("*.pt"):
        edit_rank(file, lambda content: delattr(content["args"], "norm_epsilon"))
    with pytest.raises(WeightsError, match=r"args lack norm_epsilon"):
        open_weights(checkpoint).model_config()


def test_copies_of_a_tied_embedding_must_agree(hf_folder: HfFolder, tmp_path: Path) -> None:
    convert(ConversionRequest(hf_folder("llama_tied"), tmp_path / "mg", layout=ParallelLayout(2, 2)))
    file = tmp_path / "mg/iter_0000001/mp_rank_01_001/model_optim_rng.pt"
    edit_rank(file, lambda content: content["model"]["output_layer.weight"].add_(1))
    for request in (
        ConversionRequest(tmp_path / "mg", tmp_path / "x", save_format="hf"),
        ConversionRequest(tmp_path / "mg", tmp_path / "x"),
    ):
        with pytest.raises(WeightsError, match=r"mp_rank_01_001/.*output_layer.weight differs from the embedding"):
            convert(request)
        assert not (tmp_path / "x").exists()


def test_going_on_without_missing_tensors_lists_them(
    single: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit(single, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    summary = convert(ConversionRequest(single, tmp_path / "mg", loosely=True))
    assert "missing: model.layers.1.mlp.up_proj.weight" in caplog.text
    assert summary.counts.num_tensors == 4 * 6 + 3 - 1


def test_a_large_bf16_value_survives_and_overflow_is_an_error(tmp_path: Path) -> None:
    source = save_tiny_model("llama", tmp_path / "source", dtype=torch.bfloat16)
    edit(source, lambda tensors: tensors["model.norm.weight"].fill_(1e30))
    convert(ConversionRequest(source, tmp_path / "mg"))
    convert(ConversionRequest(tmp_path / "mg", tmp_path / "hf", save_format="hf"))
    assert load_file(tmp_path / "hf/model.safetensors")["model.norm.weight"][0] == torch.tensor(1e30).bfloat16()
    with pytest.raises(WeightsError, match=r"final_layernorm.weight holds 1e\+30, which overflows torch.float16"):
        convert(ConversionRequest(source, tmp_path / "half", dtype=torch.float16))
    assert not (tmp_path / "half").exists()


def test_router_balance_stays_float32_and_integers_stay_integers() -> None:
    for name in ("mlp.router.expert_bias", "mlp.gate.e_score_correction_bias"):
        assert cast_tensor(torch.ones(2), torch.bfloat16, name).dtype == torch.float32
    assert cast_tensor(torch.ones(2, dtype=torch.int64), torch.bfloat16, "x").dtype == torch.int64
    assert cast_tensor(torch.ones(2), torch.bfloat16, "x").dtype == torch.bfloat16


def fail_after(count: int, function: Callable[..., Any]) -> Callable[..., Any]:
    calls = []

    def failing(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) > count:
            raise OSError("no space left on device")
        return function(*args, **kwargs)

    return failing


def test_a_crash_leaves_no_checkpoint(hf_folder: HfFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchArchiveWriter, "finish", fail_after(2, TorchArchiveWriter.finish))
    with pytest.raises(OSError, match="no space"):
        convert(ConversionRequest(hf_folder("llama"), tmp_path / "mg", layout=ParallelLayout(2, 2)))
    assert not (tmp_path / "mg").exists()


def test_a_crash_while_replacing_leaves_the_old_checkpoint_complete(
    hf_folder: HfFolder, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_weights(checkpoint).fingerprint()
    monkeypatch.setattr(TorchArchiveWriter, "finish", fail_after(1, TorchArchiveWriter.finish))
    with pytest.raises(OSError, match="no space"):
        convert(ConversionRequest(hf_folder("mistral"), checkpoint, layout=ParallelLayout(1, 4), overwrite=True))
    assert open_weights(checkpoint).fingerprint() == before


def test_a_crash_leaves_no_hugging_face_folder(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf_writer, "copy_assets", fail_after(0, hf_writer.copy_assets))
    with pytest.raises(OSError, match="no space"):
        convert(ConversionRequest(checkpoint, tmp_path / "out", save_format="hf"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mg"]


def test_older_files_are_met_only_by_wish(hf_folder: HfFolder, checkpoint: Path) -> None:
    with pytest.raises(WeightsError, match=r"is not empty; give another --save-dir, or --overwrite"):
        convert(ConversionRequest(hf_folder("llama"), checkpoint))
    convert(ConversionRequest(hf_folder("llama"), checkpoint, layout=ParallelLayout(4, 1), overwrite=True))
    assert sorted(path.name for path in (checkpoint / "iter_0000001").iterdir()) == [f"mp_rank_0{t}" for t in range(4)]
