"""Settings of evaluation: sets and their names, what needs what."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from mindspeed_dpo.config.validation.evaluation import evaluation_metrics
from mindspeed_dpo.observability.metric_names import metric
from tests.unit.config.small_config import online_tree, problems, put, resolved, small_tree


def evaluated(**training: Any) -> dict[str, Any]:
    tree = small_tree()
    tree["training"] |= {"split": "90,10,0", "eval_interval": 5, **training}
    return tree


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("held", {"given": "held"}),
        ({"chat": "a", "code": "b,c"}, {"chat": "a", "code": "b,c"}),
        ({"chat": "a", "code": None}, {"chat": "a"}),
        ("", None),
        (None, None),
    ],
)
def test_a_set_is_a_path_or_has_a_name(written: Any, read: Any) -> None:
    run = resolved(evaluated(eval_data_path=written))
    assert run.loop.eval_data_path == read
    again = resolved(yaml.safe_load(run.as_yaml()))
    assert again.loop.eval_data_path == read


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"eval_data_path": {"loss": "a"}}, "training.eval_data_path={loss: a} must be named with letters"),
        ({"eval_data_path": {"a/b": "a"}}, "must be named with letters"),
        ({"eval_data_path": {"split": "a"}}, "must be named with letters"),
        ({"eval_data_path": {}}, "must be a single text, or a text for each name"),
        ({"eval_data_path": True}, "must be a single text"),
        ({"eval_interval": None, "eval_at_start": True}, "eval_at_start=true has no effect without eval_interval"),
        ({"eval_interval": 0, "eval_data_path": "a"}, "has no effect without eval_interval"),
        ({"split": "100,0,0"}, "enables evaluation, but split=100,0,0 has no rows for it"),
    ],
)
def test_what_cannot_take_effect_is_refused(change: dict[str, Any], words: str) -> None:
    (actual,) = problems(evaluated(**change))
    assert words in actual


def test_sets_of_their_own_need_no_hold_out() -> None:
    assert problems(evaluated(split="100,0,0", eval_data_path="held")) == []


def test_missing_files_of_a_set_are_named() -> None:
    tree = evaluated(eval_data_path={"chat": "here", "code": "gone"})
    (actual,) = problems(tree, exists=lambda path: not path.startswith("gone"))
    assert "gone_packed_chosen_input_ids_document.bin for set code" in actual


def online_evaluated(**training: Any) -> dict[str, Any]:
    tree = online_tree()
    tree["training"] |= {"split": "90,10,0", "eval_interval": 5, **training}
    return tree


def test_online_runs_are_evaluated_on_held_out_prompts() -> None:
    run = resolved(online_evaluated(best_metric="eval/win_rate", eval_at_start=True))
    assert run.notes == () and run.loop.best_metric_mode == "max" and run.starts_as_reference
    assert evaluation_metrics(run) == [
        "eval/win_rate", "eval/reward/score/mean", "eval/response_length/mean", "eval/val/contain_eos_token",
    ]  # fmt: skip
    for name in evaluation_metrics(run):
        assert metric(name)
    (actual,) = problems(online_evaluated(best_metric="eval/loss"))
    assert "best_metric=eval/loss is not an evaluation metric of this run" in actual
    (actual,) = problems(online_evaluated(split="100,0,0"))
    assert "enables evaluation, but split=100,0,0 has no rows for it" in actual
    (actual,) = problems(online_evaluated(early_stop_patience=3))
    assert "requires best_metric, e.g. eval/win_rate" in actual


def test_a_reference_that_generates_once_must_have_weights_that_can_be_read_again() -> None:
    tree = online_evaluated()
    tree["actor_rollout_ref"]["ref"] = {"model": "small", "load": "other"}
    assert problems(tree) == [] and not resolved(tree).starts_as_reference
    tree["actor_rollout_ref"]["ref"] = {"model": "small", "random_init": True}
    (actual,) = problems(tree)
    assert (
        "random_init=true cannot be combined with eval_interval=5 and a reference that the policy differs from"
        in actual
    )
    tree["training"]["eval_interval"] = 0
    assert problems(tree) == []
    # A policy that starts as a random reference generates for it.
    tree = put(online_evaluated(), "random_init", True)
    del tree["actor_rollout_ref"]["actor_rollout"]["load"]
    assert problems(tree) == [] and resolved(tree).starts_as_reference
    adapters = {"lora_target_modules": ["all-linear"], "lora_load": "adapters"}
    assert not resolved({**online_evaluated(**adapters)}).starts_as_reference


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"best_metric": "eval/loss", "eval_interval": None},
            "best_metric=eval/loss has no effect without eval_interval",
        ),
        (
            {"best_metric": "eval/los"},
            "best_metric=eval/los is not an evaluation metric of this run; did you mean eval/loss?",
        ),
        ({"best_metric": "loss"}, "is not an evaluation metric of this run"),
        (
            {"best_metric": "eval/loss", "eval_data_path": "held"},
            "is not an evaluation metric of this run; did you mean eval/",
        ),
        ({"best_metric": "eval/entropy", "log_token_statistics": False}, "is not an evaluation metric of this run"),
        ({"early_stop_patience": 3}, "early_stop_patience=3 requires best_metric, e.g. eval/loss"),
        ({"best_metric_mode": "max"}, "best_metric_mode=max requires best_metric"),
        ({"early_stop_min_delta": 0.1}, "early_stop_min_delta=0.1 requires best_metric"),
        ({"best_metric": "eval/loss", "early_stop_min_delta": 0.1}, "has no effect without early_stop_patience"),
        ({"best_metric": "eval/loss", "early_stop_patience": 0}, "early_stop_patience=0 must be at least 1"),
        ({"keep_last_checkpoints": 0}, "keep_last_checkpoints=0 must be at least 1"),
    ],
)
def test_what_nothing_can_come_of_is_refused_before_the_run(change: dict[str, Any], words: str) -> None:
    (actual,) = problems(evaluated(**change))
    assert words in actual


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        ("eval/loss", "min"),
        ("eval/rewards/accuracies", "max"),
        ("eval/rewards/rejected", "min"),
        ("eval/logps/chosen", "max"),
        ("eval/nll", "min"),
    ],
)
def test_which_way_is_better_follows_from_the_name(metric: str, mode: str) -> None:
    assert resolved(evaluated(best_metric=metric)).loop.best_metric_mode == mode
    assert resolved(evaluated(best_metric=metric, best_metric_mode="max")).loop.best_metric_mode == "max"


def test_names_have_the_set_where_there_are_several() -> None:
    for sets, name in (({"a": "x"}, "eval/a/loss"), ({"a": "x", "b": "y"}, "eval/b/nll")):
        assert problems(evaluated(eval_data_path=sets, best_metric=name)) == []
    assert problems(evaluated(eval_data_path={"a": "x"}, split="100,0,0", best_metric="eval/loss")) == []
    assert problems(evaluated(pref_ftx=0.5, best_metric="eval/loss/pref_ftx")) == []
