"""Paths that do not exist or hold something else get the sentence that says what to do."""

from __future__ import annotations

import pytest

from mindspeed_dpo.config.validation.path_advice import data_path_advice, missing_weights_advice
from tests.unit.config.small_config import online_tree, problems, put, small_tree

DATA = "actor_rollout_ref.actor_rollout.data_path"


def problem_of(data_path: str, *present: str) -> str:
    sentences = problems(
        put(small_tree(), "data_path", data_path), lambda path: "_packed_" not in path or path in present
    )
    return next(sentence for sentence in sentences if sentence.startswith(f"{DATA}={data_path} has no file"))


def test_a_name_on_the_hub_gets_the_command_that_downloads_it() -> None:
    tree = put(small_tree(), "load", "Qwen/Qwen2.5-0.5B")
    sentences = problems(tree, lambda path: path != "Qwen/Qwen2.5-0.5B")
    assert sentences[0].endswith("hf download Qwen/Qwen2.5-0.5B --local-dir Qwen2.5-0.5B")


@pytest.mark.parametrize(("key", "others"), [("judge_model", {}), ("reward_tokenizer", {"load": "reward"})])
def test_so_does_that_of_a_model_which_scores(key: str, others: dict[str, str]) -> None:
    tree = online_tree()
    tree["reward"] = {key: "Qwen/Qwen2.5-0.5B", **others}
    sentences = problems(tree, lambda path: path != "Qwen/Qwen2.5-0.5B")
    assert any(f"reward.{key}=Qwen/Qwen2.5-0.5B does not exist; if it is a model of the" in one for one in sentences)


@pytest.mark.parametrize("path", ["./Qwen/Qwen2.5", "/models/qwen", "qwen", "a/b/c", "../a/b"])
def test_a_path_is_no_name_on_the_hub(path: str) -> None:
    assert missing_weights_advice(path) == ""


@pytest.mark.parametrize("written", ["sets/mine_packed", "sets/mine_packed_chosen_labels_document"])
def test_a_prefix_with_too_much_gets_the_prefix(written: str) -> None:
    assert problem_of(written).endswith("data_path is the prefix before _packed: sets/mine")


def test_data_of_the_other_kind_names_the_stage_that_uses_it() -> None:
    prompts, pairs = "mine_packed_input_ids_document.idx", "mine_packed_chosen_input_ids_document.idx"
    assert "holds prompts, which stage ray_online_dpo trains on" in data_path_advice(
        "mine", False, [prompts].__contains__
    )
    assert "holds pairs, which stages dpo and rm train on" in data_path_advice("mine", True, [pairs].__contains__)
    assert data_path_advice("mine", False, [pairs].__contains__) == ""


def test_raw_data_names_both_ways_to_use_it() -> None:
    assert "mindspeed-dpo train model=FOLDER data=FILE" in data_path_advice("a.jsonl", False, ["a.jsonl"].__contains__)


def test_of_absent_data_nothing_is_known() -> None:
    assert problems(put(small_tree(), "data_path", "mine"), lambda path: "mine" not in path)[0].endswith(
        "preprocess_data.py"
    )
