"""Reading: only what is needed, from files of every age and writer."""

from __future__ import annotations

import enum
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mindspeed_dpo.weights import ParallelLayout, WeightsError, open_weights
from mindspeed_dpo.weights.conversion.conversion_request import ConversionRequest
from mindspeed_dpo.weights.conversion.convert import convert
from mindspeed_dpo.weights.hf import hf_source
from tests.support.tiny_models import save_tiny_model, tiny_model
from tests.unit.weights.training_checkpoints import write_training_checkpoint

HfFolder = Callable[[str], Path]


class ForeignEnum(enum.Enum):
    """Stands for Megatron's ModelType, which is no class of ours."""

    ENCODER = 1


def assert_same_weights(folder: Path, expected: Path) -> None:
    actual, wanted = open_weights(folder), open_weights(expected)
    model = wanted.model_config()
    for (name, tensor), (other, reference) in zip(actual.hf_tensors(model), wanted.hf_tensors(model), strict=True):
        assert name == other and torch.equal(tensor, reference), name


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change every rank file of a checkpoint."""
    for file in folder.glob("*/mp_rank_*/model_optim_rng.pt"):
        content = torch.load(file, weights_only=False)
        change(content)
        torch.save(content, file)


@pytest.fixture
def checkpoint(hf_folder: HfFolder, tmp_path: Path) -> Path:
    convert(ConversionRequest(hf_folder("llama"), tmp_path / "mg", layout=ParallelLayout(2, 2)))
    return tmp_path / "mg"


class SliceSpy:
    """Stands between the source and safetensors, counting the values handed out."""

    def __init__(self, handle: Any, counts: Counter[str]) -> None:
        self.handle, self.counts = handle, counts

    def keys(self) -> Any:
        return self.handle.keys()

    def get_slice(self, name: str) -> Any:
        spy, lazy = self, self.handle.get_slice(name)

        class Slice:
            def get_shape(self) -> Any:
                return lazy.get_shape()

            def get_dtype(self) -> Any:
                return lazy.get_dtype()

            def __getitem__(self, index: Any) -> Tensor:
                piece = lazy[index]
                spy.counts[name] += piece.numel()
                return piece

        return Slice()


def test_each_slice_is_read_once_by_the_rank_that_needs_it(
    hf_folder: HfFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: Counter[str] = Counter()
    monkeypatch.setattr(hf_source, "_safetensors_handle",
                        lambda file, make=hf_source._safetensors_handle: SliceSpy(make(file), counts))  # fmt: skip
    source = open_weights(hf_folder("qwen2"))
    model, layout = source.model_config(), ParallelLayout(2, 2)
    for tp_rank in range(2):
        for _, _, placement in layout.stages(model.num_layers, tp_rank):
            before, needed = counts.total(), 0
            for _, tensor in source.local_tensors(model, placement):
                needed += tensor.numel()
            padding = (94 - 93) * 32 if tp_rank == 1 else 0
            assert counts.total() - before == needed - padding
    for name, parameter in tiny_model("qwen2").named_parameters():
        copies = 2 if "norm" in name else 1
        assert counts[name] == copies * parameter.numel(), name


def test_shards_and_bin_files_read_like_one_file(hf_folder: HfFolder, tmp_path: Path) -> None:
    sharded = save_tiny_model("llama", tmp_path / "sharded", max_shard_size="20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    assert_same_weights(sharded, hf_folder("llama"))
    old = tmp_path / "old"
    old.mkdir()
    shutil.copy(hf_folder("llama") / "config.json", old)
    torch.save(tiny_model("llama").state_dict(), old / "pytorch_model.bin")
    assert_same_weights(old, hf_folder("llama"))


@pytest.mark.parametrize("name", ["llama_tied", "qwen2_tied"])
@pytest.mark.parametrize("shard_size", ["5GB", "40KB"])
def test_a_tied_embedding_may_be_stored_as_the_output_layer_alone(
    name: str, shard_size: str, hf_folder: HfFolder, tmp_path: Path
) -> None:
    model = tiny_model(name)
    model.save_pretrained(tmp_path / "hf", max_shard_size=shard_size)
    for file in (tmp_path / "hf").glob("*.safetensors"):
        renamed = {key.replace("model.embed_tokens", "lm_head"): value for key, value in load_file(file).items()}
        save_file(renamed, file, metadata={"format": "pt"})
    for index in (tmp_path / "hf").glob("*.index.json"):
        index.write_text(index.read_text().replace("model.embed_tokens", "lm_head"))
    assert_same_weights(tmp_path / "hf", hf_folder(name))
    convert(ConversionRequest(tmp_path / "hf", tmp_path / "mg", layout=ParallelLayout(1, 2)))
    assert_same_weights(tmp_path / "mg", hf_folder(name))
    convert(ConversionRequest(tmp_path / "hf", tmp_path / "copy", save_format="hf"))
    assert "model.embed_tokens.weight" in load_file(tmp_path / "copy" / "model.safetensors")


def test_an_untied_model_needs_its_embedding(hf_folder: HfFolder, tmp_path: Path) -> None:
    shutil.copytree(hf_folder("llama"), tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.embed_tokens.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"1 tensors are missing: model.embed_tokens.weight"):
        convert(ConversionRequest(tmp_path, tmp_path / "mg"))


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.float16, torch.bfloat16)])
def test_joined_weights_of_different_types_are_cast_together(
    dtypes: tuple[torch.dtype, torch.dtype], hf_folder: HfFolder, tmp_path: Path
) -> None:
    shutil.copytree(hf_folder("qwen2"), tmp_path / "hf")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    narrow = ("k_proj", "v_proj", "up_proj")
    mixed = {name: tensor.to(dtypes[any(part in name for part in narrow)]) for name, tensor in tensors.items()}
    save_file(mixed, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"q_proj.weight, .* different data types, .*; give --params-dtype"):
        convert(ConversionRequest(tmp_path / "hf", tmp_path / "mg"))
    convert(ConversionRequest(tmp_path / "hf", tmp_path / "mg", dtype=torch.bfloat16))
    convert(ConversionRequest(tmp_path / "mg", tmp_path / "back", save_format="hf"))
    for name, tensor in load_file(tmp_path / "back" / "model.safetensors").items():
        assert torch.equal(tensor, mixed[name].to(torch.bfloat16)), name
    # Without joining, as from one Hugging Face folder to another, every tensor keeps its type.
    convert(ConversionRequest(tmp_path / "hf", tmp_path / "same", save_format="hf"))
    assert {t.dtype for t in load_file(tmp_path / "same" / "model.safetensors").values()} == set(dtypes)


def test_a_tied_head_stored_twice_must_agree(hf_folder: HfFolder, tmp_path: Path) -> None:
    shutil.copy(hf_folder("llama_tied") / "config.json", tmp_path)
    state = dict(tiny_model("llama_tied").state_dict())
    assert "lm_head.weight" in state
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert_same_weights(tmp_path, hf_folder("llama_tied"))
    state["lm_head.weight"] = state["lm_head.weight"] + 1
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"lm_head.weight differs"):
        assert_same_weights(tmp_path, hf_folder("llama_tied"))


def test_buffers_of_old_transformers_are_overlooked(hf_folder: HfFolder, tmp_path: Path) -> None:
    shutil.copy(hf_folder("llama") / "config.json", tmp_path)
    state = {**tiny_model("llama").state_dict(), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert_same_weights(tmp_path, hf_folder("llama"))


def test_fingerprints_distinguish_weights(hf_folder: HfFolder, tmp_path: Path) -> None:
    copy = shutil.copytree(hf_folder("llama"), tmp_path / "copy")
    same = open_weights(copy).fingerprint()
    assert same == open_weights(hf_folder("llama")).fingerprint()
    convert(ConversionRequest(copy, tmp_path / "mg"))
    complete, iteration = open_weights(tmp_path / "mg"), open_weights(tmp_path / "mg/iter_0000001")
    assert complete.fingerprint() == iteration.fingerprint() != same
    other = save_tiny_model("llama", tmp_path / "other", seed=1)
    assert open_weights(other).fingerprint() != same


def test_release_folders_and_single_iterations_open(hf_folder: HfFolder, checkpoint: Path) -> None:
    assert_same_weights(checkpoint / "iter_0000001", hf_folder("llama"))
    (checkpoint / "iter_0000001").rename(checkpoint / "release")
    (checkpoint / "latest_checkpointed_iteration.txt").write_text("release\n")
    assert_same_weights(checkpoint, hf_folder("llama"))


def test_files_of_older_writers_open(hf_folder: HfFolder, checkpoint: Path) -> None:
    def age(content: dict[str, Any]) -> None:
        args = vars(content["args"])
        args.update(params_dtype=torch.bfloat16, model_type=ForeignEnum.ENCODER, noop_layers=set(), num_layer_list=None)
        args.update(hf_config=SimpleNamespace(torch_dtype=torch.float32), vocab_size=None, path=Path("x"))
        content["rng_state"] = [
            {"np_rng_state": ("MT19937", torch.arange(3).numpy()), "torch_rng_state": torch.ones(2)}
        ]
        content["optimizer"] = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}
        model = content["model"]
        model["decoder.layers.0.mlp.linear_fc1._extra_state"] = None
        model["decoder.layers.0.self_attention.linear_qkv._extra_state"] = torch.zeros(0)
        content["model"] = defaultdict(dict, model)

    rewrite(checkpoint, age)
    assert_same_weights(checkpoint, hf_folder("llama"))
    assert open_weights(checkpoint).model_config().vocab_size == 94, "only the padded size is stored"


def test_fused_norm_names_are_accepted(hf_folder: HfFolder, checkpoint: Path) -> None:
    def fuse(content: dict[str, Any]) -> None:
        for layer in (0, 1):
            for plain, fused in (("input_layernorm.weight", "self_attention.linear_qkv.layer_norm_weight"),
                                 ("pre_mlp_layernorm.weight", "mlp.linear_fc1.layer_norm_weight")):  # fmt: skip
                prefix = f"decoder.layers.{layer}."
                content["model"][prefix + fused] = content["model"].pop(prefix + plain)

    rewrite(checkpoint, fuse)
    assert_same_weights(checkpoint, hf_folder("llama"))


def test_padding_of_other_writers_is_cut_away_and_added_again(hf_folder: HfFolder, tmp_path: Path) -> None:
    padded = ConversionRequest(hf_folder("llama"), tmp_path / "mg", layout=ParallelLayout(2, 1), vocab_multiple=64)
    convert(padded)

    def repeat_last_row(content: dict[str, Any]) -> None:
        for name in ("embedding.word_embeddings.weight", "output_layer.weight"):
            shard = content["model"][name]
            assert shard.shape == (64, 32)
            if not shard[-1].any():
                shard[93 - 64 :] = shard[93 - 65]

    rewrite(tmp_path / "mg", repeat_last_row)
    assert_same_weights(tmp_path / "mg", hf_folder("llama"))
    convert(ConversionRequest(tmp_path / "mg", tmp_path / "again", layout=ParallelLayout(4, 1), vocab_multiple=1))
    content = torch.load(tmp_path / "again/iter_0000001/mp_rank_03/model_optim_rng.pt", weights_only=False)
    assert content["model"]["output_layer.weight"].shape == (24, 32)
    assert not content["model"]["output_layer.weight"][21:].any()
    assert content["args"].padded_vocab_size == 96


@pytest.mark.slow
@pytest.mark.parametrize(("name", "form"), [("llama", "stacked"), ("qwen3", "numbered"), ("qwen2_tied", "stacked")])
def test_training_checkpoints_of_megatron_core_read_like_their_origin(
    hf_folder: HfFolder, name: str, form: str, tmp_path: Path
) -> None:
    target = tmp_path / "checkpoint"
    write_training_checkpoint(hf_folder(name), target, 2, stacked=form == "stacked")
    hf, dist = open_weights(hf_folder(name)), open_weights(target)
    model = hf.model_config()
    assert dist.model_config() == model
    assert_same_weights(target, hf_folder(name))
    for layout in (ParallelLayout(), ParallelLayout(4, 1), ParallelLayout(2, 2)):
        for tp_rank in range(layout.tp):
            for _, _, placement in layout.stages(4, tp_rank):
                actual = dict(dist.local_tensors(model, placement))
                expected = dict(hf.local_tensors(model, placement))
                assert actual.keys() == expected.keys()
                assert all(torch.equal(actual[key], expected[key]) for key in expected)
    (target / "iter_0000010" / "metadata.json").unlink()
    with pytest.raises(WeightsError, match=r"metadata.json: the checkpoint is incomplete"):
        open_weights(target)
