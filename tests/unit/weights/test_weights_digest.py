"""Numbers of weights: the same however a model is divided, and different when one bit or place differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mindspeed_dpo.weights import ParallelLayout, open_weights
from mindspeed_dpo.weights.resharding import Shards, digests

HfFolder = Callable[[str], Path]
LAYOUTS = [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (4, 4)]
EMBEDDING, FC2 = "embedding.word_embeddings.weight", "decoder.layers.1.mlp.linear_fc2.weight"


def numbers(
    folder: Path, layout: tuple[int, int] = (1, 1), change: Callable[[dict[str, Tensor]], None] | None = None
) -> dict[str, int]:
    """Those of all ranks of a layout, added up as their collective does."""
    source = open_weights(folder)
    model = source.model_config()
    total: Counter[str] = Counter()
    for tp_rank in range(layout[0]):
        for pp_rank in range(layout[1]):
            placement = ParallelLayout(*layout).placement(model.num_layers, tp_rank, pp_rank)
            tensors = {name: tensor.clone() for name, tensor in source.local_tensors(model, placement)}
            if change is not None:
                change(tensors)
            total.update(digests(Shards(model, tensors, placement), None))
    return {name: number % 2**64 for name, number in total.items()}


def changed(before: dict[str, int], after: dict[str, int]) -> list[str]:
    """Names of the tensors whose numbers differ."""
    assert before.keys() == after.keys()
    return [name for name in before if before[name] != after[name]]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("name", ["llama_tied", "qwen2", "qwen3"])
def test_numbers_do_not_depend_on_the_layout(hf_folder: HfFolder, name: str, layout: tuple[int, int]) -> None:
    assert numbers(hf_folder(name), layout) == numbers(hf_folder(name))


def test_a_tied_output_layer_is_counted_with_the_embedding_alone(hf_folder: HfFolder) -> None:
    assert "output_layer.weight" in numbers(hf_folder("llama"))
    assert "output_layer.weight" not in numbers(hf_folder("llama_tied"))


def test_padded_rows_do_not_count(hf_folder: HfFolder) -> None:
    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors[EMBEDDING][93:] = torch.nan

    assert numbers(hf_folder("llama"), (1, 1), spoil) == numbers(hf_folder("llama"))


def test_one_bit_changes_the_number_of_its_tensor_and_no_other(hf_folder: HfFolder) -> None:
    def flip(tensors: dict[str, Tensor]) -> None:
        tensors[FC2].view(torch.int32)[5, 7] ^= 1

    before, after = numbers(hf_folder("llama")), numbers(hf_folder("llama"), (1, 1), flip)
    assert changed(before, after) == [FC2]


@pytest.mark.parametrize("dim", [0, 1])
def test_values_in_each_others_place_change_the_number(hf_folder: HfFolder, dim: int) -> None:
    def swap(tensors: dict[str, Tensor]) -> None:
        tensors[FC2].copy_(tensors[FC2].roll(1, dim))

    assert changed(numbers(hf_folder("llama")), numbers(hf_folder("llama"), (1, 1), swap)) == [FC2]


def test_weights_of_low_precision_have_numbers_too(hf_folder: HfFolder) -> None:
    def halve(tensors: dict[str, Tensor]) -> None:
        tensors.update({name: tensor.bfloat16() for name, tensor in tensors.items()})

    one, other = numbers(hf_folder("llama"), (2, 2), halve), numbers(hf_folder("llama"), (4, 1), halve)
    assert one == other != numbers(hf_folder("llama"))
