"""Settings of adapters: names of targets, what is refused, what a device holds, and the way there and back as YAML."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml

from mindspeed_dpo.config.estimates import memory
from mindspeed_dpo.config.estimates.adapter_parameter_counts import num_adapter_parameters
from mindspeed_dpo.config.estimates.run_summary import plan_lines
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.config.settings.lora import LORA_MODULES, AdapterConfig
from tests.unit.config.small_config import Tree, online_tree, problems, put, resolved, small_tree


def adapted(tree: Tree | None = None, **keys: Any) -> Tree:
    """A small configuration with adapters."""
    tree = tree or small_tree()
    tree["actor_rollout_ref"]["actor_rollout"] |= {"lora_target_modules": ["linear_qkv"], **keys}
    return tree


@pytest.mark.parametrize(
    ("names", "modules"),
    [
        (["linear_qkv"], ("q_proj", "k_proj", "v_proj")),
        (["down_proj", "linear_fc1"], ("gate_proj", "up_proj", "down_proj")),
        (["v_proj", "q_proj"], ("q_proj", "v_proj")),
        ("linear_proj,linear_fc2", ("o_proj", "down_proj")),
        (["all-linear"], LORA_MODULES),
        ([], ()),
    ],
)
def test_targets_are_named_by_megatron_or_by_hugging_face(names: Any, modules: tuple[str, ...]) -> None:
    adapters = resolved(adapted(lora_target_modules=names)).actor.adapters
    assert adapters.modules == modules
    assert adapters.is_on is bool(modules)


def test_the_scale_is_alpha_by_r_or_by_its_root() -> None:
    assert AdapterConfig().scale == 2.0
    assert AdapterConfig(lora_r=8, lora_alpha=16, use_rslora=True).scale == pytest.approx(16 / math.sqrt(8))


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"lora_target_modules": ["linear_kqv"]}, "did you mean linear_qkv?"),
        ({"lora_target_modules": ["lm_head"]}, "names lm_head, which cannot have an adapter; choose from linear_qkv"),
        ({"lora_r": 0}, "lora_r=0 must be at least 1"),
        ({"lora_alpha": 0}, "lora_alpha=0 must be more than 0"),
        ({"lora_dropout": 1.0}, "lora_dropout=1.0 must be at least 0 and less than 1"),
        ({"lora_target_modules": [], "lora_r": 8}, "lora_r=8 has no effect without lora_target_modules"),
        ({"lora_target_modules": [], "lora_load": "x"}, "lora_load=x has no effect without lora_target_modules"),
        ({"load": None, "random_init": True}, "random_init=true cannot be combined with lora_target_modules"),
        ({"load_checkpoint_loosely": True}, "load_checkpoint_loosely=true cannot be combined with lora_target_modules"),
        ({"lora_modules_to_save": ["norm"]}, "only adapters are trained with lora_target_modules"),
        ({"qlora": True}, "4-bit base weights are not implemented"),
    ],
)
def test_what_has_no_meaning_is_one_problem_with_its_reason(keys: dict[str, Any], sentence: str) -> None:
    (problem,) = problems(adapted(**keys))
    assert sentence in problem


def test_an_adapter_to_start_from_must_be_there() -> None:
    (problem,) = problems(adapted(lora_load="absent"), exists=lambda path: path != "absent")
    assert problem == "actor_rollout_ref.actor_rollout.lora_load=absent does not exist"


def test_legacy_keys_are_accepted_or_reported() -> None:
    quiet = resolved(adapted(lora_ckpt_filter=True, lora_fusion=False))
    reported = resolved(adapted(lora_ckpt_filter=False, lora_fusion=True))
    assert not [note for note in quiet.notes if "lora" in note]
    assert len([note for note in reported.notes if "lora" in note and "has no effect" in note]) == 2


@pytest.mark.parametrize("tree", [small_tree(), adapted(lora_r=8, use_rslora=True)], ids=["without", "with"])
def test_the_resolved_file_gives_the_same_run_again(tree: Tree) -> None:
    run = resolved(tree)
    again = resolved(yaml.safe_load(run.as_yaml()))
    assert again.actor == run.actor
    assert RoleConfig.from_dict(run.actor.as_dict()) == run.actor


def test_the_reference_needs_no_model_where_it_is_the_policy_without_adapters() -> None:
    assert resolved(adapted()).is_ref_within_actor
    assert not resolved(small_tree()).is_ref_within_actor
    assert not resolved(adapted(ref_model="another")).is_ref_within_actor
    apart = adapted()
    apart["resource_pool"]["ref"] = [2]
    assert not resolved(apart).is_ref_within_actor


def test_only_adapters_have_gradient_and_optimizer_state() -> None:
    tree = adapted(lora_target_modules=["all-linear"], lora_r=4)
    role = resolved(tree).actor
    model = role.model
    keys = model.num_query_groups * model.kv_channels
    by_hand = 4 * model.num_layers * (4 * 64 + 2 * 64 + 2 * keys + 3 * (64 + 176))
    assert num_adapter_parameters(role) == by_hand
    assert (memory.adapter_bytes(role), memory.gradient_bytes(role)) == (4 * by_hand, 4 * by_hand)
    assert memory.optimizer_bytes(role, 1) == 8 * by_hand
    assert memory.weight_bytes(role) == memory.weight_bytes(resolved(small_tree()).actor)
    halves = resolved(put(put(tree, "tensor_model_parallel_size", 2), "sequence_parallel", True)).actor
    # Replicated on every rank: A of five matrices, B of two.
    replicated = 4 * model.num_layers * 64 * (5 + 2)
    assert memory.num_trained_parameters(halves) == (by_hand - replicated) // 2 + replicated


def test_the_plan_shows_adapters() -> None:
    lines = plan_lines(resolved(adapted(lora_r=2)))
    assert any("adapters on q_proj, k_proj and v_proj: 2,560 trained parameters" in line for line in lines)
    assert any("the actor with its adapters off, once before training" in line for line in lines)
    online = plan_lines(resolved(adapted(online_tree())))
    assert any("adapters off, at each step" in line for line in online)
    assert any("merged weights" in line for line in online)
    assert not any("ref weights" in line for line in online)
