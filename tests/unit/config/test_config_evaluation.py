"""Settings of evaluation: sets and their names, what needs what."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

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


@pytest.mark.parametrize(("key", "value"), [("eval_data_path", "held"), ("eval_at_start", True), ("eval_interval", 3)])
def test_evaluation_keys_are_reported_as_unused_online(key: str, value: Any) -> None:
    run = resolved(put(online_tree(), key, value))
    assert any(note.startswith(f"training.{key}=") and "online DPO has no held-out pairs" in note for note in run.notes)


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
