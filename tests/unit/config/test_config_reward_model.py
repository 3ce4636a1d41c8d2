"""Stage rm: no reference, no policy's loss, a scalar head in the plan, and what the other stages say of its keys."""

from __future__ import annotations

from typing import Any

import pytest

from mindspeed_dpo.config.estimates.memory import weight_bytes
from mindspeed_dpo.config.estimates.run_summary import plan_lines
from mindspeed_dpo.config.load import check
from mindspeed_dpo.config.loading.compose import ComposedConfig, compose
from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.settings.evaluation import default_best_mode
from mindspeed_dpo.config.validation.evaluation import evaluation_metrics
from mindspeed_dpo.trainers.dry_run import preview
from tests.unit.config.small_config import Tree, online_tree, problems, put, resolved, small_tree


def reward_tree(stage: str = "rm", **settings: Any) -> Tree:
    tree = small_tree()
    tree["training"] |= {"stage": stage, **settings}
    return tree


def test_there_is_no_reference_and_the_trained_model_has_a_score_head() -> None:
    run = resolved(reward_tree())
    assert run.trains_reward_model and not run.is_online
    assert [role.name for role in run.roles] == ["actor"] and run.actor.has_score_head
    assert list(run.pools) == ["actor_rollout"] and run.notes == ()
    assert RoleConfig.from_dict(run.actor.as_dict()) == run.actor
    assert not resolved(small_tree()).actor.has_score_head


def test_orm_is_the_older_name() -> None:
    run = resolved(reward_tree("orm"))
    assert run.loop.stage == "rm" and run.notes == ("training.stage=orm is read as rm",)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("dpo_beta", 0.2, "the loss of a reward model compares scores (Bradley-Terry)"),
        ("dpo_loss_type", "simpo", "the loss of a reward model compares scores (Bradley-Terry)"),
        ("ref_model", "other", "a reward model has no reference"),
        ("reference", "live", "a reward model has no reference"),
        ("sync_ref_model", True, "a reward model has no reference"),
        ("log_token_statistics", False, "a reward model scores responses, not tokens"),
        ("temperature", 0.5, "only ray_online_dpo uses it"),
        ("reward_functions", ["a.b"], "only ray_online_dpo uses it"),
    ],
)
def test_keys_of_policies_have_no_effect(key: str, value: Any, reason: str) -> None:
    run = resolved(put(reward_tree(), key, value))
    assert len(run.notes) == 1 and run.notes[0].endswith(f"has no effect: {reason}")
    assert run == resolved(reward_tree())


def test_a_reference_and_a_reward_of_other_stages_are_left_out() -> None:
    tree = reward_tree()
    tree["actor_rollout_ref"]["ref"] = {"model": "small", "load": "other"}
    tree["resource_pool"]["ref"] = [2]
    tree["reward"] = {"reward_functions": ["a.b"]}
    run = resolved(tree)
    assert run == resolved(reward_tree())
    assert run.notes == (
        "section reward has no effect: no response is sampled and scored in stage rm",
        "actor_rollout_ref.ref and its pool have no effect: a reward model has no reference",
        "reward.reward_functions=[a.b] has no effect: only ray_online_dpo uses it",
    )


@pytest.mark.parametrize("key", ["rm_label_smoothing", "center_rewards_coefficient"])
def test_other_stages_report_the_keys_of_reward_models(key: str) -> None:
    for tree in (small_tree(), online_tree()):
        assert f"training.{key}=0.1 has no effect: only stage rm uses it" in resolved(put(tree, key, 0.1)).notes


def test_values_out_of_range_are_problems() -> None:
    assert problems(put(reward_tree(), "rm_label_smoothing", 0.5)) == [
        "training.rm_label_smoothing=0.5 must be at least 0 and less than 0.5"
    ]
    assert problems(put(reward_tree(), "center_rewards_coefficient", -1)) == [
        "training.center_rewards_coefficient=-1 must be at least 0"
    ]


def test_evaluations_measure_scores() -> None:
    tree = reward_tree(eval_interval=5, split="90,10,0", center_rewards_coefficient=0.01)
    assert evaluation_metrics(resolved(tree)) == [
        *("eval/loss", "eval/rewards/chosen", "eval/rewards/rejected", "eval/rewards/margins"),
        *("eval/rewards/accuracies", "eval/rewards/brier", "eval/rewards/ece"),
        *("eval/loss/ranking", "eval/loss/center"),
    ]
    assert resolved(put(tree, "best_metric", "eval/rewards/accuracies")).loop.best_metric_mode == "max"
    assert default_best_mode("eval/rewards/brier") == "min"
    (problem,) = problems(put(tree, "best_metric", "eval/logps/chosen"))
    assert "is not an evaluation metric of this run" in problem


def test_a_resolved_run_composes_to_itself() -> None:
    run = resolved(reward_tree(margin_column="gap", center_rewards_coefficient=0.1, rm_label_smoothing=0.05))
    tree = run.as_tree()
    section = tree["actor_rollout_ref"]["actor_rollout"]
    assert section["margin_column"] == "gap" and section["center_rewards_coefficient"] == 0.1
    assert not {"dpo_beta", "reference", "temperature"} & set(section) and "ref" not in tree["actor_rollout_ref"]
    assert resolved(ComposedConfig(run.name, tree, {}).tree) == run


def test_the_plan_counts_a_scalar_head_and_no_reference() -> None:
    run, policy = resolved(reward_tree()), resolved(put(small_tree(), "untie_embeddings_and_output_weights", True))
    first, roles, *_ = plan_lines(run)
    assert first == "plan: rm, 10 steps" and roles.startswith("actor on actor_rollout [2]: TP 1 x PP 1 x DP 2")
    table = 262 * 64
    assert weight_bytes(policy.actor) - weight_bytes(run.actor) == 4 * (table - 64)
    text = preview(shipped("tiny"))
    assert "center_rewards_coefficient" in text and "plan of reward_model_trainer_tiny" in text
    assert "ref weights" not in text and "dpo_beta" not in text


def shipped(model: str) -> RunConfig:
    return check(compose(f"reward_model_trainer_{model}"), exists=lambda path: True)


@pytest.mark.parametrize("model", ["tiny", "llama32_1b", "qwen25_7b", "qwen3_8b", "qwen3_30b_a3b"])
def test_the_shipped_files_have_no_key_without_effect(model: str) -> None:
    run = shipped(model)
    assert run.trains_reward_model and run.notes == ()
    assert compose(f"reward_model_trainer_{model}").tree["training"]["stage"] == "rm"
