"""Every setting alone: a bad value is one problem naming it, a good one arrives."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from mindspeed_dpo.config.loading.value_parsing import scalar_type
from mindspeed_dpo.config.settings.registry import GROUPS, SETTINGS
from mindspeed_dpo.config.settings.setting import Setting, group_settings
from tests.unit.config.small_config import problems, put, resolved, small_tree


def _bad_values(item: Setting) -> list[Any]:
    """Values that the declared type, the choices or the check cannot accept."""
    other_type: dict[type, list[Any]] = {
        bool: ["maybe", 1],
        int: ["many", 1.5, True],
        float: ["much", True],
        str: [[1, 2], "a\0b", "\ud83d"],
        dict: [1.5, {"a": [1]}],
        Mapping: [1.5, "one word"],
    }
    kind, is_list = scalar_type(item.type)
    if is_list:
        return [{"a": 1}, [[1, 2]]]
    bad = [*other_type[kind], *item.info.refused]
    if item.info.choices:
        bad.append("bogus")
    if item.info.check:
        unfit: dict[type, tuple[Any, ...]] = {str: ("one word",), dict: ({"a/b": "pairs"},)}
        bad += [value for value in unfit.get(kind, (-1, 0, 10**9)) if not item.info.check.accepts(value)]
    return bad


BAD = [(key, value) for key, item in SETTINGS.items() for value in _bad_values(item)]


@pytest.mark.parametrize(("key", "value"), BAD, ids=[f"{key}={value!a}" for key, value in BAD])
def test_one_bad_value_is_one_problem_naming_it(key: str, value: Any) -> None:
    actual = problems(put(small_tree(), key, value))
    assert len(actual) == 1, actual
    assert f".{key}=" in actual[0]


def test_the_small_configuration_has_no_problems() -> None:
    assert problems(small_tree()) == []


@pytest.mark.parametrize("key", [key for key, item in SETTINGS.items() if item.is_required])
@pytest.mark.parametrize("absent", [None, "left out"])
def test_a_missing_required_setting_is_one_problem_naming_it(key: str, absent: str | None) -> None:
    tree = put(small_tree(), key, None)
    if absent:
        for section in (tree["training"], tree["model"]["small"], tree["actor_rollout_ref"]["actor_rollout"]):
            section.pop(key, None)
    actual = problems(tree)
    assert len(actual) == 1, actual
    assert f": {key} is missing: " in actual[0]


GOOD = [
    ("lr", "1e-7", 1e-7),
    ("lr", 1, 1.0),
    ("train_iters", "20", 20),
    ("train_iters", 20.0, 20),
    ("bf16", "True", True),
    ("bf16", "false", False),
    ("tensorboard", False, False),
    ("prompt_type", "", None),
    ("save", 7, "7"),
    ("ref_model", "", None),
    ("rotary_base", 500000, 500000.0),
    ("dpo_loss_type", "ipo", ("ipo",)),
    ("dpo_loss_type", ["sigmoid", "sft"], ("sigmoid", "sft")),
    ("clip_grad", 0, 0.0),
    ("seed", None, 1234),
    ("num_query_groups", None, 4),
    ("seq_length", None, 256),
]


@pytest.mark.parametrize(("key", "written", "read"), GOOD)
def test_a_value_arrives_as_its_declared_type(key: str, written: Any, read: Any) -> None:
    run = resolved(put(small_tree(), key, written))
    value = {**vars(run.loop), **run.actor.settings()}[key]
    assert value == read
    assert type(value) is type(read)


def test_no_two_groups_share_a_key() -> None:
    keys = [key for group in GROUPS.values() for key in group_settings(group)]
    assert sorted(keys) == sorted(set(keys))


@pytest.mark.parametrize("key", SETTINGS)
def test_every_setting_is_described_by_a_sentence(key: str) -> None:
    words = SETTINGS[key].info.help
    assert words[0].isupper() and words.endswith(".")


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_every_field_of_a_group_is_a_setting_and_frozen(group: Any) -> None:
    assert sorted(item.name for item in dataclasses.fields(group)) == sorted(group_settings(group))
    assert group.__dataclass_params__.frozen


def test_defaults_pass_their_own_checks() -> None:
    for key, item in SETTINGS.items():
        if item.default in (None, dataclasses.MISSING):
            continue
        assert item.info.check is None or item.info.check.accepts(item.default), key
        items = item.default if isinstance(item.default, tuple) else (item.default,)
        assert not item.info.choices or set(items) <= set(item.info.choices), key
