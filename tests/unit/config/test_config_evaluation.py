"""Settings of evaluation: sets and their names, what needs what."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.unit.config.small import online_tree, problems, put, resolved, small_tree


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
        ({"eval_data_path": {}}, "must be one text, or names with a text each"),
        ({"eval_data_path": True}, "must be one text"),
        ({"eval_interval": None, "eval_at_start": True}, "eval_at_start=true has no effect without eval_interval"),
        ({"eval_interval": 0, "eval_data_path": "a"}, "has no effect without eval_interval"),
        ({"split": "100,0,0"}, "asks for evaluation, but split=100,0,0 keeps no rows for it"),
    ],
)
def test_what_cannot_take_effect_is_refused(change: dict[str, Any], words: str) -> None:
    (found,) = problems(evaluated(**change))
    assert words in found


def test_sets_of_their_own_need_no_hold_out() -> None:
    assert problems(evaluated(split="100,0,0", eval_data_path="held")) == []


def test_missing_files_of_a_set_are_named() -> None:
    tree = evaluated(eval_data_path={"chat": "here", "code": "gone"})
    (found,) = problems(tree, exists=lambda path: not path.startswith("gone"))
    assert "gone_packed_chosen_input_ids_document.bin for set code" in found


@pytest.mark.parametrize(("key", "value"), [("eval_data_path", "held"), ("eval_at_start", True), ("eval_interval", 3)])
def test_online_nothing_is_evaluated_and_that_is_said(key: str, value: Any) -> None:
    run = resolved(put(online_tree(), key, value))
    assert any(note.startswith(f"training.{key}=") and "online DPO keeps no pairs" in note for note in run.notes)
