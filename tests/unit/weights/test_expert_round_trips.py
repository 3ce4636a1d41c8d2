"""Experts come back bit by bit from rank files of every form and layout, in the shapes that MindSpeed-LLM reads."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mindspeed_dpo.weights import ParallelLayout, open_weights
from mindspeed_dpo.weights.conversion.conversion_request import ConversionRequest
from mindspeed_dpo.weights.conversion.convert import convert
from mindspeed_dpo.weights.legacy.expert_storage import ExpertDivision, ExpertForm, ExpertStorage
from tests.support.peft_adapters import save_random_adapter
from tests.support.tiny_models import MOE_FAMILIES
from tests.unit.weights.training_checkpoints import write_training_checkpoint

HfFolder = Callable[[str], Path]
SLICED, UNSLICED, EXTENDED = ExpertDivision.SLICED, ExpertDivision.UNSLICED, ExpertDivision.EXTENDED
STORAGES = [
    ExpertStorage(form, division)
    for form in ExpertForm
    for division in ExpertDivision
    if (form, division) != (ExpertForm.PER_EXPERT, EXTENDED)
]
LAYOUT = ParallelLayout(2, 2, ep=2)


def name_of(storage: ExpertStorage) -> str:
    return f"{storage.form.name}-{storage.division.name}"


def write(source: Path, target: Path, layout: ParallelLayout, storage: ExpertStorage) -> Path:
    convert(ConversionRequest(source, target, layout=layout, storage=storage))
    return target


def assert_comes_back(checkpoint: Path, source: Path, target: Path) -> None:
    convert(ConversionRequest(checkpoint, target, save_format="hf"))
    actual, expected = load_file(target / "model.safetensors"), load_file(source / "model.safetensors")
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype and torch.equal(actual[name], tensor), name


def states(checkpoint: Path) -> dict[str, dict[str, Tensor]]:
    files = sorted(checkpoint.glob("iter_*/*/model_optim_rng.pt"))
    return {file.parent.name: torch.load(file, weights_only=False)["model"] for file in files}


@pytest.mark.parametrize("name", MOE_FAMILIES)
def test_every_family_comes_back_from_tp2_pp2_ep2(hf_folder: HfFolder, name: str, tmp_path: Path) -> None:
    storage = STORAGES[MOE_FAMILIES.index(name) % len(STORAGES)]
    checkpoint = write(hf_folder(name), tmp_path / "mg", LAYOUT, replace(storage, division=SLICED))
    assert len(states(checkpoint)) == 8
    assert open_weights(checkpoint).model_config() == open_weights(hf_folder(name)).model_config()
    assert_comes_back(checkpoint, hf_folder(name), tmp_path / "hf")


@pytest.mark.parametrize(
    "layout",
    [ParallelLayout(2, 1, ep=2), ParallelLayout(4, 2, ep=2, layers_per_virtual_stage=1, noop_layers=(2, 3))],
    ids=["tp2ep2", "virtual"],
)
@pytest.mark.parametrize("storage", STORAGES, ids=name_of)
def test_every_form_and_division_comes_back(
    hf_folder: HfFolder, storage: ExpertStorage, layout: ParallelLayout, tmp_path: Path
) -> None:
    checkpoint = write(hf_folder("glm4_moe"), tmp_path / "mg", layout, storage)
    found = open_weights(checkpoint).storage  # type: ignore[attr-defined]
    assert found == (storage if layout.tp > 1 else replace(storage, division=SLICED)), "one rank has whole experts"
    assert_comes_back(checkpoint, hf_folder("glm4_moe"), tmp_path / "hf")


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("qwen3_moe_some_dense", ParallelLayout(1, 2, num_layer_list=(3, 1), ep=3)),
        ("glm4_moe", ParallelLayout(4, 1)),
        ("glm4_moe", ParallelLayout(2, 3, noop_layers=(0,), ep=4)),
    ],
    ids=["list", "tp4", "noops"],
)
def test_uneven_stages_come_back(hf_folder: HfFolder, name: str, layout: ParallelLayout, tmp_path: Path) -> None:
    checkpoint = write(hf_folder(name), tmp_path / "mg", layout, ExpertStorage(ExpertForm.GROUPED))
    assert_comes_back(checkpoint, hf_folder(name), tmp_path / "hf")


@pytest.mark.parametrize(("first", "second"), [(0, 5), (4, 2), (6, 0), (3, 7)])
def test_another_layout_equals_direct_conversion(hf_folder: HfFolder, first: int, second: int, tmp_path: Path) -> None:
    source, target = hf_folder("glm4_moe"), ParallelLayout(2, 2, ep=4)
    between = write(source, tmp_path / "first", ParallelLayout(4, 1, ep=2), STORAGES[first])
    actual = states(write(between, tmp_path / "second", target, STORAGES[second]))
    expected = states(write(source, tmp_path / "direct", target, STORAGES[second]))
    assert actual.keys() == expected.keys()
    for rank, tensors in expected.items():
        assert actual[rank].keys() == tensors.keys()
        assert all(torch.equal(actual[rank][name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("storage", STORAGES, ids=name_of)
def test_training_ranks_read_the_same_from_either_form(
    hf_folder: HfFolder, storage: ExpertStorage, tmp_path: Path
) -> None:
    hf = open_weights(hf_folder("qwen2_moe"))
    mg = open_weights(write(hf_folder("qwen2_moe"), tmp_path / "mg", ParallelLayout(2, 1), storage))
    model = hf.model_config()
    for ep_rank in range(3):
        placement = ParallelLayout(2, 1, ep=3).placement(model.num_layers, 1, 0, ep_rank=ep_rank)
        actual, expected = dict(mg.local_tensors(model, placement)), dict(hf.local_tensors(model, placement))
        assert actual.keys() == expected.keys()
        assert all(torch.equal(actual[key], expected[key]) for key in expected)


def test_the_forms_are_those_of_mindspeed(hf_folder: HfFolder, tmp_path: Path) -> None:
    """The formulas of MindSpeed-LLM's converter: [h, E', 2f] seen as [h, 2 f E'], and its transposed rows."""
    source = load_file(hf_folder("mixtral") / "model.safetensors")
    layout, hidden, width = ParallelLayout(2, 1, ep=2), 32, 24
    files = {
        form: states(write(hf_folder("mixtral"), tmp_path / form.name, layout, ExpertStorage(form)))
        for form in ExpertForm
    }
    block, module = "model.layers.1.block_sparse_moe.experts", "decoder.layers.1.mlp.experts"
    for t in range(2):
        for e in range(2):
            rows, rank = slice(t * width, (t + 1) * width), f"mp_rank_0{t}_00{e}"
            parts = [[source[f"{block}.{x}.{w}.weight"] for w in ("w1", "w3", "w2")] for x in (2 * e, 2 * e + 1)]
            fc1 = [torch.cat([gate[rows], up[rows]]) for gate, up, _ in parts]
            fc2 = [down[:, rows] for _, _, down in parts]
            grouped = files[ExpertForm.GROUPED][rank]
            assert grouped[f"{module}.weight1"].shape == (hidden, 2 * 2 * width)
            assert grouped[f"{module}.weight2"].shape == (2 * width, hidden)
            assert torch.equal(grouped[f"{module}.weight1"].view(2, hidden, -1), torch.stack([w.t() for w in fc1]))
            assert torch.equal(grouped[f"{module}.weight2"].view(2, -1, hidden), torch.stack([w.t() for w in fc2]))
            for j in range(2):
                single, numbered = files[ExpertForm.PER_EXPERT][rank], files[ExpertForm.NUMBERED][rank]
                assert torch.equal(single[f"{module}.local_experts.{j}.linear_fc1.weight"], fc1[j])
                assert torch.equal(single[f"{module}.local_experts.{j}.linear_fc2.weight"], fc2[j])
                assert torch.equal(numbered[f"{module}.linear_fc1.weight{j}"], fc1[j])
                assert torch.equal(numbered[f"{module}.linear_fc2.weight{j}"], fc2[j])


def test_whole_experts_are_where_mindspeed_expects_them(hf_folder: HfFolder, tmp_path: Path) -> None:
    source = load_file(hf_folder("glm4_moe") / "model.safetensors")
    down = [source[f"model.layers.1.mlp.experts.{x}.down_proj.weight"].t() for x in range(8)]
    name, layout = "decoder.layers.1.mlp.experts.weight2", ParallelLayout(2, 1, ep=4)
    extended = states(
        write(hf_folder("glm4_moe"), tmp_path / "a", replace(layout, ep=2), ExpertStorage(ExpertForm.GROUPED, EXTENDED))
    )
    for t in range(2):
        for e in range(2):
            first = 2 * (2 * e + t)
            assert torch.equal(extended[f"mp_rank_0{t}_00{e}"][name], torch.cat(down[first : first + 2]))
    whole = states(write(hf_folder("glm4_moe"), tmp_path / "b", layout, ExpertStorage(ExpertForm.GROUPED, UNSLICED)))
    assert sorted(whole) == ["mp_rank_00_000", "mp_rank_00_002", "mp_rank_01_001", "mp_rank_01_003"]
    for rank, state in whole.items():
        first = 2 * int(rank[-3:])
        assert torch.equal(state[name], torch.cat(down[first : first + 2]))


def test_merged_adapters_of_experts_are_sliced_like_their_weights(hf_folder: HfFolder, tmp_path: Path) -> None:
    base, parameters = hf_folder("qwen3_moe"), ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    adapter = save_random_adapter(base, tmp_path / "peft", ("o_proj",), target_parameters=parameters)
    convert(ConversionRequest(base, tmp_path / "merged", save_format="hf", adapter_dir=adapter))
    request = ConversionRequest(base, tmp_path / "mg", layout=LAYOUT, adapter_dir=adapter)
    convert(replace(request, storage=ExpertStorage(ExpertForm.GROUPED)))
    convert(ConversionRequest(tmp_path / "mg", tmp_path / "hf", save_format="hf"))
    merged, original = load_file(tmp_path / "merged/model.safetensors"), load_file(base / "model.safetensors")
    for name, tensor in load_file(tmp_path / "hf/model.safetensors").items():
        torch.testing.assert_close(tensor, merged[name], rtol=1e-6, atol=1e-6)
        assert torch.equal(tensor, original[name]) == (".experts." not in name and "o_proj" not in name)


@pytest.mark.slow
def test_a_training_checkpoint_becomes_rank_files(hf_folder: HfFolder, tmp_path: Path) -> None:
    source = hf_folder("qwen3_moe")
    write_training_checkpoint(source, tmp_path / "run", 1)
    shutil.copytree(source, tmp_path / "run/hf")
    for storage in (ExpertStorage(ExpertForm.GROUPED), ExpertStorage(division=UNSLICED)):
        checkpoint = write(tmp_path / "run", tmp_path / name_of(storage), LAYOUT, storage)
        assert_comes_back(checkpoint, source, tmp_path / f"{name_of(storage)}-hf")
