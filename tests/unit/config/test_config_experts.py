"""Models with experts: what their settings must fulfil, and the spellings of MindSpeed."""

from __future__ import annotations

from typing import Any

import pytest

from mindspeed_dpo.config.settings.model import ModelConfig
from tests.unit.config.small_config import Tree, online_tree, problems, put, resolved, small_tree

ADAPTERS = {"lora_target_modules": ["linear_qkv"]}
EXPERTS = {"num_experts": 8, "moe_router_topk": 2, "moe_intermediate_size": 32}


def moe_tree(tree: Tree | None = None, **settings: Any) -> Tree:
    """A configuration without problems of a model with experts."""
    tree = small_tree() if tree is None else tree
    tree["model"]["small"] |= EXPERTS
    for key, value in settings.items():
        put(tree, key, value)
    return tree


TABLE: list[tuple[dict[str, Any], str]] = [
    ({"moe_router_topk": 9}, "moe_router_topk=9 is more than the 8 experts that a token can choose from"),
    ({"moe_router_num_groups": 3}, "moe_router_num_groups=3 does not divide num_experts=8 into groups of at least 1"),
    (
        {"moe_router_num_groups": 8, "moe_router_score_function": "sigmoid"},
        "does not divide num_experts=8 into groups of at least 2",
    ),
    ({"moe_router_num_groups": 2, "moe_router_group_topk": 3}, "is more than moe_router_num_groups=2"),
    (
        {"moe_router_num_groups": 4, "moe_router_group_topk": 1, "moe_router_topk": 3},
        "moe_router_topk=3 is more than the 2 experts",
    ),
    ({"mlp_only_layers": [4]}, "names layer 4, but layers are 0 to 3"),
    ({"first_k_dense_replace": 4}, "num_experts=8 has no effect: all layers are dense"),
    ({"shared_expert_gate": True}, "shared_expert_gate=true has no effect without shared experts"),
    ({"tensor_model_parallel_size": 2}, "sequence_parallel=false must be true: with experts"),
    (
        {"expert_model_parallel_size": 4},
        "expert_model_parallel_size=4 gives an expert-parallel size of 4, which does not divide num_experts=8 and the "
        "2 devices of a pipeline stage; choose a size of 1 or 2",
    ),
    (
        {**ADAPTERS, "lora_target_parameters": ["mlp.gate.weight"]},
        "lora_target_parameters=[mlp.gate.weight] names mlp.gate.weight, which cannot have an adapter; choose from",
    ),
    ({**ADAPTERS, "lora_target_modules": ["up_proj"]}, "names up_proj of experts without gate_proj; these are one"),
    (
        {**ADAPTERS, "lora_target_modules": ["linear_fc1"], "lora_target_parameters": ["mlp.experts.gate_up_proj"]},
        "has gate_up_proj together with gate_proj and up_proj of the same experts; name them once",
    ),
    (
        {**ADAPTERS, "lora_target_modules": ["all-linear"], "lora_dropout": 0.1},
        "lora_dropout=0.1 cannot be combined with adapters of experts, as in PEFT",
    ),
    ({**ADAPTERS, "freeze_moe_router": True}, "freeze_moe_router=true has no effect: with adapters the routers are"),
    (
        {
            **ADAPTERS,
            "lora_target_modules": [],
            "lora_target_parameters": ["mlp.experts.down_proj"],
            "first_k_dense_replace": 2,
            "pipeline_model_parallel_size": 2,
        },
        "leaves the pipeline stage of layers 0 to 1 without any adapter",
    ),
    ({"router_aux_loss_coef": 0.1, "pipeline_model_parallel_size": 2}, "it pools the choices of all layers"),
    ({"rotary_percent": 0.2}, "rotates 3 of kv_channels=16"),
    ({"moe_expert_capacity_factor": 1.5}, "moe_expert_capacity_factor=1.5 is refused"),
    ({"expert_tensor_parallel_size": 2}, "expert_tensor_parallel_size=2 is refused: experts are never divided"),
]


@pytest.mark.parametrize(("settings", "problem"), TABLE)
def test_a_contradiction_is_one_problem(settings: dict[str, Any], problem: str) -> None:
    actual = problems(moe_tree(**settings))
    assert len(actual) == 1 and problem in actual[0], actual


@pytest.mark.parametrize("key", ["moe_aux_loss_coeff", "router_aux_loss_coef", "moe_z_loss_coeff"])
def test_settings_of_experts_need_experts(key: str) -> None:
    (actual,) = problems(put(small_tree(), key, 0.1))
    assert f"{key}=0.1 has no effect: the model has no experts" in actual
    (actual,) = problems(put(small_tree(), "expert_model_parallel_size", 2))
    assert "expert_model_parallel_size=2 has no effect: the model has no experts" in actual
    (actual,) = problems(put(small_tree(), "lora_target_parameters", ["mlp.experts.down_proj"]))
    assert "lora_target_parameters=[mlp.experts.down_proj] has no effect: the model has no experts" in actual


def rollout_tree(processes: int, **settings: Any) -> Tree:
    """An online run of a model with experts on so many processes."""
    tree = moe_tree(online_tree(), **settings)
    tree["resource_pool"]["actor_rollout"] = [processes]
    return tree


@pytest.mark.parametrize(
    ("processes", "settings", "size"),
    [
        (2, {"expert_model_parallel_size": 2}, 2),
        (8, {"expert_model_parallel_size": 4, "num_gpus_for_infer": 4, "num_gpus_for_train": 4}, 4),
        (4, {"expert_model_parallel_size": 4, "inference_expert_model_parallel_size": 2}, 2),
        (6, {"expert_model_parallel_size": 4, "num_gpus_for_infer": 2, "num_gpus_for_train": 4}, 2),
    ],
)
def test_the_rollout_shares_experts_as_training_does_where_it_can(
    processes: int, settings: dict[str, Any], size: int
) -> None:
    rollout = resolved(rollout_tree(processes, **settings)).rollout
    assert rollout is not None and rollout.parallel.expert_parallel_size == size


def test_expert_groups_of_the_rollout_hold_complete_replicas() -> None:
    sizes = {"tensor_model_parallel_size": 2, "sequence_parallel": True, "inference_expert_model_parallel_size": 8}
    (actual,) = problems(rollout_tree(4, **sizes))
    assert "inference_expert_model_parallel_size=8 must divide num_experts=8 and the 4 devices" in actual
    assert actual.endswith("choose 1, 2 or 4")
    (actual,) = problems(put(online_tree(), "inference_expert_model_parallel_size", 2))
    assert "inference_expert_model_parallel_size=2 has no effect: the model has no experts" in actual


def test_a_reward_model_has_experts_of_its_own() -> None:
    tree = online_tree()
    tree["model"]["scoring"] = {**tree["model"]["small"], **EXPERTS}
    tree["reward"] = {"load": "reward", "model": "scoring"}
    run = resolved(tree)
    assert run.reward is not None and run.reward.model.has_experts and not run.actor.model.has_experts


def beside_experts(**reward: Any) -> Tree:
    """Two processes share the experts of the actor, by a setting of all roles; a dense model scores."""
    tree = moe_tree(online_tree(), expert_model_parallel_size=2)
    tree["model"]["dense"] = {key: value for key, value in tree["model"]["small"].items() if key not in EXPERTS}
    tree["reward"] = {"load": "reward", "model": "dense", **reward}
    return tree


@pytest.mark.parametrize("pools", [{}, {"reward": [2]}, {"ref": [2], "reward": "ref"}], ids=str)
def test_a_dense_role_ignores_who_shares_experts(pools: Tree) -> None:
    tree = beside_experts()
    tree["resource_pool"] |= pools
    run = resolved(tree)
    assert run.reward is not None and run.reward.parallel.expert_parallel_size == 1
    assert run.actor.parallel.expert_parallel_size == 2 and run.data_parallel_size("reward") == 2
    assert resolved(run.as_tree()) == run


def test_a_dense_role_does_not_ask_for_shared_experts_itself() -> None:
    (actual,) = problems(beside_experts(expert_model_parallel_size=2))
    assert actual == "reward.expert_model_parallel_size=2 has no effect: the model has no experts; remove it"
    (actual,) = problems(put(small_tree(), "moe_tp_extend_ep", True))
    assert "moe_tp_extend_ep=true has no effect: the model has no experts; remove it" in actual


def test_roles_with_experts_share_them_as_their_pool_does() -> None:
    (actual,) = problems(beside_experts(model="small", expert_model_parallel_size=1))
    assert "reward.expert_model_parallel_size=1 differs from 2 of the actor, whose devices it shares" in actual


def test_the_spellings_of_mindspeed_mean_the_same() -> None:
    settings = {"expert_model_parallel_size": 1, "moe_tp_extend_ep": True, "tensor_model_parallel_size": 2}
    run = resolved(moe_tree(**settings, sequence_parallel=True, n_shared_experts=2, moe_layer_freq=-1))
    assert run.actor.parallel.expert_parallel_size == 2
    model = run.actor.model
    assert (model.moe_ffn_hidden_size, model.moe_shared_expert_intermediate_size) == (32, 64)
    assert all(model.is_moe_layer(layer) for layer in range(4))


def test_a_dense_model_is_described_without_experts() -> None:
    described = resolved(small_tree()).actor.model.as_dict()
    assert not {key for key in described if "moe" in key or "expert" in key or key == "rotary_percent"}
    model = resolved(moe_tree(mlp_only_layers=[1], rotary_percent=0.5)).actor.model
    assert ModelConfig.from_dict(model.as_dict()) == model
