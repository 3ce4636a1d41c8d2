"""What goes out comes back bit by bit, whatever layout lies between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from mindspeed_dpo.weights import ParallelLayout, open_weights
from mindspeed_dpo.weights.conversion.conversion_request import ConversionRequest
from mindspeed_dpo.weights.conversion.convert import convert
from tests.support.tiny_models import FAMILIES, save_tiny_model

HfFolder = Callable[[str], Path]
LAYOUTS = {
    "tp1": ParallelLayout(),
    "tp2": ParallelLayout(2, 1),
    "tp4": ParallelLayout(4, 1),
    "pp2": ParallelLayout(1, 2),
    "tp2pp2": ParallelLayout(2, 2),
    "virtual": ParallelLayout(2, 2, layers_per_virtual_stage=1),
    "list": ParallelLayout(1, 2, num_layer_list=(3, 1)),
    "noops": ParallelLayout(2, 2, noop_layers=(1, 5)),
    "virtual_noops": ParallelLayout(1, 2, layers_per_virtual_stage=1, noop_layers=(0, 5)),
}


def read(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype and torch.equal(actual[name], tensor), name


def rank_files(folder: Path) -> dict[str, dict[str, dict[str, Tensor]]]:
    files = {}
    for file in sorted(folder.glob("iter_*/*/model_optim_rng.pt")):
        content = torch.load(file, weights_only=False)
        files[file.parent.name] = {key: value for key, value in content.items() if key.startswith("model")}
    return files


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FAMILIES)
def test_to_megatron_and_back_changes_no_bit(hf_folder: HfFolder, name: str, layout: str, tmp_path: Path) -> None:
    convert(ConversionRequest(hf_folder(name), tmp_path / "mg", layout=LAYOUTS[layout]))
    convert(ConversionRequest(tmp_path / "mg", tmp_path / "hf", save_format="hf"))
    assert_same(read(tmp_path / "hf"), read(hf_folder(name)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_source_dtype_is_unchanged(dtype: torch.dtype, tmp_path: Path) -> None:
    source = save_tiny_model("qwen2", tmp_path / "source", dtype=dtype)
    convert(ConversionRequest(source, tmp_path / "mg", layout=ParallelLayout(2, 2)))
    convert(ConversionRequest(tmp_path / "mg", tmp_path / "hf", save_format="hf"))
    assert_same(read(tmp_path / "hf"), read(source))


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_computes_the_same_logits_from_the_result(hf_folder: HfFolder, name: str, tmp_path: Path) -> None:
    convert(ConversionRequest(hf_folder(name), tmp_path / "mg", layout=ParallelLayout(2, 2)))
    convert(ConversionRequest(tmp_path / "mg", tmp_path / "hf", save_format="hf"))
    tokens = torch.arange(93).view(3, 31)
    logits = []
    for folder in (hf_folder(name), tmp_path / "hf"):
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, attn_implementation="eager"
        )
        assert not info["missing_keys"] and not info["unexpected_keys"]
        with torch.no_grad():
            logits.append(model(tokens).logits)
    assert torch.equal(*logits)


@pytest.mark.parametrize(
    ("first", "second"), [("tp2", "tp4"), ("virtual", "list"), ("noops", "tp1"), ("tp4", "virtual")]
)
@pytest.mark.parametrize("name", ["llama", "qwen2_tied", "qwen3"])
def test_resharding_equals_direct_conversion(
    hf_folder: HfFolder, name: str, first: str, second: str, tmp_path: Path
) -> None:
    convert(ConversionRequest(hf_folder(name), tmp_path / "first", layout=LAYOUTS[first]))
    convert(ConversionRequest(tmp_path / "first", tmp_path / "second", layout=LAYOUTS[second]))
    convert(ConversionRequest(hf_folder(name), tmp_path / "direct", layout=LAYOUTS[second]))
    actual, expected = rank_files(tmp_path / "second"), rank_files(tmp_path / "direct")
    assert actual.keys() == expected.keys()
    for rank, chunks in expected.items():
        assert actual[rank].keys() == chunks.keys()
        for chunk, tensors in chunks.items():
            assert_same(actual[rank][chunk], tensors)


@pytest.mark.parametrize("stored", ["tp1", "tp4", "virtual", "noops"])
@pytest.mark.parametrize("name", ["llama_tied", "qwen2", "qwen3"])
def test_every_rank_reads_the_same_from_either_form(
    hf_folder: HfFolder, name: str, stored: str, tmp_path: Path
) -> None:
    convert(ConversionRequest(hf_folder(name), tmp_path / "mg", layout=LAYOUTS[stored]))
    hf, mg = open_weights(hf_folder(name)), open_weights(tmp_path / "mg")
    model = hf.model_config()
    assert mg.model_config() == model
    for layout in LAYOUTS.values():
        for tp_rank in range(layout.tp):
            for _, _, placement in layout.stages(4, tp_rank):
                assert_same(dict(mg.local_tensors(model, placement)), dict(hf.local_tensors(model, placement)))


def test_files_have_megatrons_names_and_own_their_memory(hf_folder: HfFolder, tmp_path: Path) -> None:
    convert(ConversionRequest(hf_folder("llama"), tmp_path, layout=ParallelLayout(2, 2, layers_per_virtual_stage=1)))
    assert (tmp_path / "latest_checkpointed_iteration.txt").read_text().strip() == "1"
    files = rank_files(tmp_path)
    assert list(files) == ["mp_rank_00_000", "mp_rank_00_001", "mp_rank_01_000", "mp_rank_01_001"]
    assert list(files["mp_rank_00_000"]) == ["model0", "model1"]
    assert "embedding.word_embeddings.weight" in files["mp_rank_00_000"]["model0"]
    assert "output_layer.weight" in files["mp_rank_01_001"]["model1"]
    assert all(name.startswith("decoder.layers.0.") for name in files["mp_rank_00_001"]["model0"])
    for chunks in files.values():
        for tensors in chunks.values():
            for name, tensor in tensors.items():
                assert tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes, name


def test_the_stored_args_describe_model_and_layout(hf_folder: HfFolder, tmp_path: Path) -> None:
    layout = ParallelLayout(2, 2, noop_layers=(1, 3))
    convert(ConversionRequest(hf_folder("llama3_rope"), tmp_path, layout=layout, dtype=torch.bfloat16))
    file = tmp_path / "iter_0000001" / "mp_rank_00_000" / "model_optim_rng.pt"
    content = torch.load(file, weights_only=False)
    args = content["args"]
    assert content["checkpoint_version"] == 3.0 and content["iteration"] == 1
    expected = {
        "num_layers": 6, "tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2, "noop_layers": "1,3",
        "vocab_size": 93, "padded_vocab_size": 94, "norm_epsilon": 1e-5, "rotary_base": 5e5, "bf16": True,
        "fp16": False, "params_dtype": "torch.bfloat16", "num_query_groups": 4, "group_query_attention": True,
        "add_position_embedding": True, "rope_scaling_type": "llama3", "original_max_position_embeddings": 32,
        "untie_embeddings_and_output_weights": True, "normalization": "RMSNorm", "use_mcore_models": True,
    }  # fmt: skip
    assert {name: getattr(args, name) for name in expected} == expected
    assert all(isinstance(value, (int, float, str, bool, list, type(None))) for value in vars(args).values())
