"""The form of the tensors, against the published layout written out by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights import ParallelLayout, open_weights
from mindspeed_dpo.weights.families import rules_for
from mindspeed_dpo.weights.layer_placement import TPRank
from mindspeed_dpo.weights.name_mapping import local_entries

HfFolder = Callable[[str], Path]
PREFIX = "model.layers.2."


def local(
    folder: Path, layout: ParallelLayout, tp_rank: int, pp_rank: int = 0
) -> tuple[dict[str, Tensor], ModelConfig]:
    source = open_weights(folder)
    model = source.model_config()
    placement = layout.placement(model.num_layers, tp_rank, pp_rank)
    return dict(source.local_tensors(model, placement)), model


@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize("name", ["llama", "llama_mha", "qwen3"])
def test_query_key_value_rows_are_grouped_by_key_head(hf_folder: HfFolder, name: str, tp: int) -> None:
    hf = load_file(hf_folder(name) / "model.safetensors")
    q, k, v = (hf[f"{PREFIX}self_attn.{x}_proj.weight"] for x in "qkv")
    for rank in range(tp):
        tensors, model = local(hf_folder(name), ParallelLayout(tp, 1), rank)
        d, groups = model.kv_channels, model.num_query_groups
        ratio = model.num_attention_heads // groups
        rows = []
        for g in range(rank * groups // tp, (rank + 1) * groups // tp):
            rows += [q[g * ratio * d : (g + 1) * ratio * d], k[g * d : (g + 1) * d], v[g * d : (g + 1) * d]]
        assert torch.equal(tensors["decoder.layers.2.self_attention.linear_qkv.weight"], torch.cat(rows))


def test_biases_are_grouped_like_their_weights(hf_folder: HfFolder) -> None:
    hf = load_file(hf_folder("qwen2") / "model.safetensors")
    q, k, v = (hf[f"{PREFIX}self_attn.{x}_proj.bias"].view(4, -1, 4) for x in "qkv")
    expected = torch.cat((q, k, v), dim=1).flatten()
    halves = [local(hf_folder("qwen2"), ParallelLayout(2, 1), rank)[0] for rank in (0, 1)]
    assert torch.equal(
        torch.cat([half["decoder.layers.2.self_attention.linear_qkv.bias"] for half in halves]), expected
    )


def test_a_rank_holds_its_gate_rows_above_its_up_rows(hf_folder: HfFolder) -> None:
    hf = load_file(hf_folder("llama") / "model.safetensors")
    gate, up = hf[PREFIX + "mlp.gate_proj.weight"], hf[PREFIX + "mlp.up_proj.weight"]
    tensors, _ = local(hf_folder("llama"), ParallelLayout(2, 1), 1)
    assert torch.equal(tensors["decoder.layers.2.mlp.linear_fc1.weight"], torch.cat((gate[24:], up[24:])))


def test_projections_back_are_cut_by_columns_and_norms_are_copied(hf_folder: HfFolder) -> None:
    hf = load_file(hf_folder("llama") / "model.safetensors")
    tensors, _ = local(hf_folder("llama"), ParallelLayout(2, 1), 1)
    assert torch.equal(tensors["decoder.layers.2.self_attention.linear_proj.weight"],
                       hf[PREFIX + "self_attn.o_proj.weight"][:, 16:])  # fmt: skip
    assert torch.equal(tensors["decoder.layers.2.mlp.linear_fc2.weight"], hf[PREFIX + "mlp.down_proj.weight"][:, 24:])
    assert torch.equal(tensors["decoder.layers.2.input_layernorm.weight"], hf[PREFIX + "input_layernorm.weight"])
    assert torch.equal(tensors["decoder.layers.2.pre_mlp_layernorm.weight"],
                       hf[PREFIX + "post_attention_layernorm.weight"])  # fmt: skip


def test_a_vocabulary_that_does_not_divide_is_padded_with_zeros(hf_folder: HfFolder) -> None:
    hf = load_file(hf_folder("llama") / "model.safetensors")
    shards = [local(hf_folder("llama"), ParallelLayout(4, 1), rank)[0] for rank in range(4)]
    for mcore, name in (("embedding.word_embeddings.weight", "model.embed_tokens.weight"),
                        ("output_layer.weight", "lm_head.weight")):  # fmt: skip
        complete = torch.cat([shard[mcore] for shard in shards])
        assert complete.shape == (96, 32)
        assert torch.equal(complete[:93], hf[name])
        assert not complete[93:].any()


@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_a_ranks_tensor_lies_where_the_kind_says_in_the_full_tensor(hf_folder: HfFolder, name: str, tp: int) -> None:
    complete, model = local(hf_folder(name), ParallelLayout(), 0)
    for rank in range(tp):
        mine, _ = local(hf_folder(name), ParallelLayout(tp, 1), rank)
        for mcore, entry in local_entries(rules_for(model), model, ParallelLayout().placement(4, 0, 0)):
            kind = entry.layout
            ranges = kind.mcore_ranges(model, TPRank(rank, tp))
            parts = [complete[mcore].narrow(kind.partition_dim or 0, start, stop - start) for start, stop in ranges]
            expected = torch.cat(parts, kind.partition_dim or 0)
            assert torch.equal(
                mine[mcore].narrow(kind.partition_dim or 0, 0, expected.shape[kind.partition_dim or 0]), expected
            )
            assert kind.is_padded or mine[mcore].shape == expected.shape == kind.mcore_shape(model, tp)


def test_a_rank_may_hold_nothing_but_padding(hf_folder: HfFolder) -> None:
    source = open_weights(hf_folder("llama"))
    model = ModelConfig(**{**source.model_config().as_dict(), "make_vocab_size_divisible_by": 64})
    shard = dict(source.local_tensors(model, ParallelLayout(4, 1).placement(4, 2, 0)))[
        "embedding.word_embeddings.weight"
    ]
    assert shard.shape == (64, 32) and not shard.any()


def test_the_last_stage_of_a_tied_model_holds_a_copy_of_the_embedding(hf_folder: HfFolder) -> None:
    single, _ = local(hf_folder("llama_tied"), ParallelLayout(2, 1), 1)
    last, _ = local(hf_folder("llama_tied"), ParallelLayout(2, 2), 1, pp_rank=1)
    assert "output_layer.weight" not in single
    assert "embedding.word_embeddings.weight" not in last
    assert torch.equal(last["output_layer.weight"], single["embedding.word_embeddings.weight"])


def test_head_norms_and_wide_heads_of_qwen3(hf_folder: HfFolder) -> None:
    tensors, model = local(hf_folder("qwen3"), ParallelLayout(2, 1), 0)
    assert model.kv_channels == 12 != model.hidden_size // model.num_attention_heads
    assert tensors["decoder.layers.0.self_attention.q_layernorm.weight"].shape == (12,)
    assert tensors["decoder.layers.0.self_attention.linear_qkv.weight"].shape == ((8 + 2 * 4) * 12 // 2, 32)
