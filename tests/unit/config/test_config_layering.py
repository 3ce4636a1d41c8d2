"""Precedence of values for each role, and their origins."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspeed_dpo.config.sourced_values import Origin
from tests.unit.config.small_config import problems, put, resolved, small_tree

LAYERS = ("model", "training", "role")
EXAMPLES = {
    "dpo_beta": (0.2, 0.3, 0.4),
    "adam_beta1": (0.1, 0.2, 0.3),
    "norm_epsilon": (1e-4, 1e-3, 1e-2),
    "bf16": (True, False, True),
}
DEFAULTS = {"dpo_beta": 0.1, "adam_beta1": 0.9, "norm_epsilon": 1e-5, "bf16": False}


@given(st.fixed_dictionaries({key: st.sets(st.sampled_from(LAYERS)) for key in EXAMPLES}))
def test_role_wins_over_training_wins_over_model(where: dict[str, set[str]]) -> None:
    tree = small_tree()
    sections = dict(
        zip(LAYERS, (tree["model"]["small"], tree["training"], tree["actor_rollout_ref"]["actor_rollout"]), strict=True)
    )
    expected = dict(DEFAULTS)
    for layer_index, layer in enumerate(LAYERS):
        for key, layers in where.items():
            if layer in layers:
                sections[layer][key] = expected[key] = EXAMPLES[key][layer_index]
    settings = resolved(tree).actor.settings()
    assert {key: settings[key] for key in EXAMPLES} == expected


def test_the_value_that_applies_has_its_origin() -> None:
    tree = small_tree()
    tree["model"]["small"]["seed"] = 42
    tree["training"]["lr"] = 1e-6
    run = resolved(tree, {"training.train_iters": "training.train_iters=10"})
    assert run.origins["actor.lr"] == Origin("actor_rollout_ref.actor_rollout", "small_run.yaml")
    assert run.origins["loop.seed"] == Origin("model.small", "model/small.yaml")
    assert run.origins["loop.train_iters"] == Origin("training", "override training.train_iters=10")
    assert "actor.weight_decay" not in run.origins


def test_null_brings_back_the_default() -> None:
    tree = put(small_tree(), "weight_decay", 0.5)
    tree["actor_rollout_ref"]["actor_rollout"]["weight_decay"] = None
    assert resolved(tree).actor.optimizer.weight_decay == 0.01


def test_the_reference_inherits_nothing_from_the_actor_section() -> None:
    tree = small_tree()
    tree["actor_rollout_ref"]["actor_rollout"]["bf16"] = True
    tree["actor_rollout_ref"]["ref"] = {"model": "small", "load": "other", "micro_batch_size": 4}
    run = resolved(tree)
    assert run.actor.precision.dtype == "bfloat16"
    assert run.ref is not None
    assert run.ref.precision.dtype == "float32"
    assert run.ref.batch.micro_batch_size == 4
    assert run.ref.checkpoint.load == "other"


@pytest.mark.parametrize(("ref_model", "load"), [(None, "weights"), ("", "weights"), ("other", "other")])
def test_without_a_section_the_reference_is_the_actor_or_ref_model(ref_model: str | None, load: str) -> None:
    run = resolved(put(small_tree(), "ref_model", ref_model))
    assert run.ref is not None
    assert run.ref.model == run.actor.model
    assert run.ref.checkpoint.load == load


def test_a_randomly_started_policy_is_its_own_reference() -> None:
    run = resolved(put(put(small_tree(), "random_init", True), "load", None))
    assert run.ref is not None
    assert run.ref.checkpoint.random_init
    other = resolved(put(put(put(small_tree(), "random_init", True), "load", None), "ref_model", "other"))
    assert other.ref is not None
    assert (other.ref.checkpoint.load, other.ref.checkpoint.random_init) == ("other", False)


def test_a_key_without_meaning_for_the_reference_is_reported() -> None:
    tree = small_tree()
    tree["actor_rollout_ref"]["ref"] = {"model": "small", "load": "weights", "lr": 1.0}
    assert any("actor_rollout_ref.ref.lr has no effect" in note for note in resolved(tree).notes)


@pytest.mark.parametrize("key", ["train_iters", "global_batch_size", "seed"])
def test_a_role_may_repeat_but_not_contradict_what_holds_for_the_run(key: str) -> None:
    tree = put(small_tree(), key, 8)
    agreeing = copy.deepcopy(tree)
    agreeing["actor_rollout_ref"]["actor_rollout"][key] = 8
    assert problems(agreeing) == []
    tree["actor_rollout_ref"]["actor_rollout"][key] = 16
    (actual,) = problems(tree)
    assert f"actor_rollout_ref.actor_rollout.{key}=16 differs from training.{key}=8" in actual


def test_a_value_for_the_run_may_stand_in_a_role_alone() -> None:
    tree = small_tree()
    tree["actor_rollout_ref"]["actor_rollout"]["save_interval"] = 3
    assert resolved(tree).actor.checkpoint.save_interval == 3


def test_hyphens_and_underscores_are_alike() -> None:
    tree = small_tree()
    tree["training"]["min-lr"] = 1e-4
    assert resolved(tree).actor.optimizer.min_lr == 1e-4


def test_one_key_spelled_twice_is_a_problem() -> None:
    tree = small_tree()
    tree["training"].update({"min-lr": 1e-4, "min_lr": 1e-4})
    assert problems(tree) == ["training: min-lr and min_lr are the same key; keep one"]
    tree = small_tree()
    tree["training"].update({"npu_deterministic": True, "use_deter_comp": True})
    assert problems(tree) == ["training: npu_deterministic and use_deter_comp are the same key; keep one"]


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("trian_iters", "train_iters"),
        ("learning_rate", "lr"),
        ("dpo_betta", "dpo_beta"),
        ("use_flash_atn", "use_flash_attn"),
    ],
)
def test_an_unknown_key_suggests_the_nearest(typo: str, meant: str) -> None:
    (actual,) = problems(put(small_tree(), typo, 1))
    assert actual.startswith(f"training.{typo} is not a known key; did you mean {meant}")


def test_the_only_model_need_not_be_named() -> None:
    tree = small_tree()
    del tree["actor_rollout_ref"]["actor_rollout"]["model"]
    assert problems(tree) == []
    tree["model"]["second"] = dict(tree["model"]["small"])
    assert problems(tree) == ["actor: model is missing; choose small or second"]


def test_a_model_that_was_not_listed_is_one_problem() -> None:
    tree = put(small_tree(), "model", "smal")
    assert problems(tree) == ["actor: model=smal is not one of the models in `defaults`; did you mean small?"]
    tree = small_tree()
    del tree["model"]
    (actual,) = problems(tree)
    assert "there is no model" in actual


@pytest.mark.parametrize("section", ["training", "resource_pool", "actor_rollout_ref"])
def test_a_section_that_holds_no_keys_is_a_problem(section: str) -> None:
    tree = small_tree()
    tree[section] = ["a"]
    assert any(f"section {section} must contain keys and values" in actual for actual in problems(tree))
