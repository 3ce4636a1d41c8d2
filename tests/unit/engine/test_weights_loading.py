"""Weights into a model: all of them, or a list of all problems."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from mindspeed_dpo.engine.weight_loading import load_into
from mindspeed_dpo.models.moe.grouped_experts import GroupedLinear
from mindspeed_dpo.parallel.expert_parallel import ExpertGroup


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1, bias=False))


def tensors(**changes: Tensor | None) -> list[tuple[str, Tensor]]:
    right = {"0.weight": torch.full((3, 2), 2.0), "0.bias": torch.full((3,), 3.0), "1.weight": torch.full((1, 3), 4.0)}
    wanted = {**right, **{name.replace("_", ".", 1): value for name, value in changes.items()}}
    return [(name.removeprefix("."), value) for name, value in wanted.items() if value is not None]


def test_every_parameter_takes_its_tensor(model: nn.Module) -> None:
    assert load_into(model, iter(tensors()), "folder") == []
    assert {name: p.unique().tolist() for name, p in model.named_parameters()} == {
        "0.weight": [2], "0.bias": [3], "1.weight": [4],
    }  # fmt: skip


def test_tensors_take_the_dtype_of_the_parameter_and_are_copied(model: nn.Module) -> None:
    given = [(name, value.to(torch.bfloat16)) for name, value in tensors()]
    load_into(model, given, "folder")
    given[0][1].zero_()
    assert model[0].weight.dtype == torch.float32 and model[0].weight.unique().tolist() == [2]  # type: ignore[index]


def test_every_problem_is_listed_at_once(model: nn.Module) -> None:
    invalid = [("0.weight", torch.ones(2, 3)), ("0.bias", torch.ones(3)), ("2.weight", torch.ones(1))]
    with pytest.raises(ValueError, match=r"^folder does not match the model: ") as error:
        load_into(model, invalid, "folder")
    text = str(error.value)
    assert "0.weight is [2, 3] in the weights and [3, 2] in the model" in text
    assert "2.weight is in the weights but not in the model" in text
    assert "1.weight is in the model but not in the weights" in text
    assert "0.bias" not in text


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (tensors()[:-1], "1.weight is in the model but not in the weights"),
        ([*tensors(), ("3.bias", torch.ones(1))], "3.bias is in the weights but not in the model"),
    ],
    ids=["missing", "unexpected"],
)
def test_missing_and_unexpected_names_are_tolerated_only_when_requested(
    given: list[tuple[str, Tensor]], problem: str, model: nn.Module
) -> None:
    with pytest.raises(ValueError, match=problem):
        load_into(model, given, "folder")
    assert load_into(model, given, "folder", loosely=True) == [problem]
    assert model[0].bias.unique().tolist() == [3]  # type: ignore[index]


@pytest.mark.parametrize("loosely", [False, True])
def test_a_tensor_that_comes_twice_is_never_tolerated(loosely: bool, model: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"folder does not match the model: 0.bias is twice in the weights"):
        load_into(model, [*tensors(), tensors()[1]], "folder", loosely=loosely)


def test_every_expert_of_a_grouped_matrix_is_loaded_once() -> None:
    """The experts of a layer are one parameter, of which a missing one would keep what was in memory."""
    config = SimpleNamespace(use_cpu_initialization=True, params_dtype=torch.float32, perform_initialization=False)
    block = nn.ModuleDict({"experts": nn.ModuleDict({"linear_fc1": GroupedLinear(config, ExpertGroup(), 3, 2, 4)})})
    name = "experts.local_experts.{}.linear_fc1.weight"
    experts = [(name.format(index), torch.full((4, 2), float(index))) for index in range(3)]
    assert load_into(block, experts, "folder") == []
    assert block["experts"]["linear_fc1"].weight[:, 0, 0].tolist() == [0, 1, 2]  # type: ignore[index]
    for given, problem in (
        (experts[:2], f"{name.format(2)} is in the model but not in the weights"),
        ([*experts, experts[1]], f"{name.format(1)} is twice in the weights"),
        ([*experts, (name.format(3), experts[0][1])], f"{name.format(3)} is in the weights but not in the model"),
    ):
        with pytest.raises(ValueError, match=problem):
            load_into(block, given, "folder")


def test_an_incorrect_shape_is_never_tolerated(model: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"0.bias is \[4\] in the weights and \[3\] in the model"):
        load_into(model, [*tensors()[:1], ("0.bias", torch.ones(4)), *tensors()[2:]], "folder", loosely=True)
