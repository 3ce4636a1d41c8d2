"""A judge model: what its settings mean, and which do not fit."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from mindspeed_dpo.config.estimates.run_summary import plan_lines
from mindspeed_dpo.config.load import check
from mindspeed_dpo.config.loading.compose import compose
from mindspeed_dpo.config.settings.generation import ENGINE_PROCESS_KEYS
from mindspeed_dpo.config.settings.judge_template import filled_template, placeholders
from mindspeed_dpo.workers.rewards.judge_engine import judge_arguments, judge_sampling
from tests.unit.config.small_config import Tree, online_tree, problems, put, resolved

PAIRWISE = {"judge_mode": "pairwise"}


def judged(pool: list[int] | None = None, **reward: Any) -> Tree:
    tree = online_tree()
    tree["reward"] = {"judge_model": "judge", **reward}
    if pool:
        tree["resource_pool"]["reward"] = pool
    return tree


@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        (
            judged(judge_template="Is {respons} good?"),
            "has the placeholder {respons}; with judge_mode=score it may have {response}, {prompt}, {min_score} and "
            "{max_score}, and columns that dataset_additional_keys lists; did you mean response?",
        ),
        (judged(judge_template="Is it good, {prompt}?"), "lacks {response}, without which judge_model does not see"),
        (judged(judge_template="{response}", **PAIRWISE), "has the placeholder {response}; with judge_mode=pairwise"),
        (judged(judge_template="{prompt}", **PAIRWISE), "lacks {response_a} and {response_b}, without which"),
        (judged(dataset_additional_keys=["response"]), "names response, which judge_template gets anyway; rename"),
        (judged(judge_verdict="(\\d"), "judge_verdict=(\\d is not a regular expression: missing ), unterminated"),
        (judged(judge_verdict="Score: \\d+"), "has 0 groups; it must have one, around the verdict"),
        (judged(judge_verdict="(a)(b)"), "has 2 groups; it must have one"),
        (judged(judge_score_range=[5, 1]), "judge_score_range=[5, 1] must be two numbers, the smaller one first"),
        (judged(judge_score_range=[1]), "must be two numbers, the smaller one first"),
        (judged(judge_unparsed_score=2, **PAIRWISE), "must be at least 0 and at most 1 with judge_mode=pairwise"),
        (judged(judge_mode="pointwise"), "judge_mode=pointwise is not supported; choose score or pairwise"),
        (judged(judge_vllm={"model": "m"}), "judge_vllm={model: m} sets model, which follows from judge_model"),
        (judged(judge_vllm={"tensor_parallel_size": 2}), "follows from judge_tensor_model_parallel_size; set that key"),
        (judged(judge_vllm={"generation_config": "auto"}), "sets generation_config, which this trainer chooses"),
        (judged(judge_vllm={"sleep": 1}), "sets sleep, which only the rollout's engine does; remove it"),
        (judged(judge_vllm={"python": 3}), "must give the path of an interpreter as python"),
        (judged(judge_vllm={"timeout_s": -1}), "must give a positive number of seconds as timeout_s"),
        (
            judged(judge_tensor_model_parallel_size=2),
            "judge_tensor_model_parallel_size=2 requires devices for judge_model alone; set resource_pool.reward to",
        ),
        (
            judged([4, 3], judge_tensor_model_parallel_size=2),
            "does not divide the processes of each node of resource_pool.reward=[4, 3]",
        ),
        (
            put(judged(**PAIRWISE), "dpo_loss_type", "rpo_bwd_kl"),
            "requires the difference of two scores, but a judge gives preferences",
        ),
        (
            put(put(judged(**PAIRWISE), "online_method", "nash_md"), "n_samples_per_prompt", 2),
            "judge_mode=pairwise cannot be combined with online_method=nash_md, which requires the difference",
        ),
    ],
)
def test_a_setting_that_does_not_fit_is_one_problem(tree: Tree, problem: str) -> None:
    actual = problems(tree)
    assert len(actual) == 1 and problem in actual[0], actual


def test_a_folder_that_does_not_exist_is_reported() -> None:
    (problem,) = problems(judged(), exists=lambda path: path != "judge")
    assert problem == "reward.judge_model=judge does not exist"


@pytest.mark.parametrize("key", ["dpo_loss_type", "online_method"])
def test_scores_of_a_judge_model_have_differences(key: str) -> None:
    value = {"dpo_loss_type": "rpo_bwd_kl", "online_method": "nash_md"}[key]
    assert problems(put(put(judged(), key, value), "n_samples_per_prompt", 2)) == []


def test_each_mode_has_a_template_and_columns_are_placeholders() -> None:
    for tree in (judged(), judged(**PAIRWISE), judged(judge_template='{response} {labels} {"a": {}}',
                                                      dataset_additional_keys=["labels"])):  # fmt: skip
        assert problems(tree) == []
    score, pairwise = (resolved(judged(judge_mode=mode)).actor.reward for mode in ("score", "pairwise"))
    assert placeholders(score.judge_question) == ["prompt", "response", "min_score", "max_score"]
    assert placeholders(pairwise.judge_question) == ["prompt", "response_a", "response_b"]


def test_a_placeholder_inside_a_value_stays_as_it_is() -> None:
    text = filled_template('{a} {b} {"c": {}} {{a}}', {"a": "{b}", "b": "\\1 {a}"})
    assert text == '{b} \\1 {a} {"c": {}} {{b}}'


def test_arguments_reach_the_engine_as_yaml_reads_them() -> None:
    override = "reward.judge_vllm={python: /opt/vllm/bin/python, timeout_s: 5, max_model_len: 4096, quantization: fp8}"
    keys = ["reward.reward_functions=null", "reward.judge_model=judge", "reward.judge_temperature=0.5"]
    run = check(compose("online_dpo_trainer_tiny", [*keys, override]), exists=lambda path: True)
    settings = run.actor.reward
    assert [settings.judge_vllm_setting(name) for name in ENGINE_PROCESS_KEYS] == ["/opt/vllm/bin/python", 5, 1800.0]
    arguments = judge_arguments(settings)
    assert (arguments["model"], arguments["max_model_len"], arguments["quantization"]) == ("judge", 4096, "fp8")
    assert (arguments["tensor_parallel_size"], "load_format" in arguments) == (1, False)
    sampling = judge_sampling(settings, frozenset({7, 2}))
    assert (sampling["temperature"], sampling["max_tokens"], sampling["stop_token_ids"]) == (0.5, 1024, [2, 7])


def test_engines_of_several_devices_are_the_replicas_of_their_pool() -> None:
    # More devices than the policy's heads could be divided over.
    run = resolved(judged([16, 8], judge_tensor_model_parallel_size=8))
    assert run.data_parallel_size("reward") == 3
    assert "reward on reward [16, 8]: judge_model judge (score), TP 8 x DP 3, vLLM" in plan_lines(run)
    assert run.reward is not None and run.reward.reward_source == "judge_model"


def test_the_written_run_composes_to_the_same() -> None:
    keys = {"judge_template": "Rate {response}\nfor {labels}", "dataset_additional_keys": ["labels"]}
    vllm = {"python": "p", "max_model_len": 9, "compilation_config": {"level": 1}}
    run = resolved(judged([2], **keys, judge_tensor_model_parallel_size=2, judge_vllm=vllm, judge_score_range=[0, 1]))
    tree = yaml.safe_load(run.as_yaml())
    assert tree["reward"]["judge_template"] == keys["judge_template"] and "reward_timeout_s" not in tree["reward"]
    assert resolved(tree) == run


def test_settings_of_a_reward_model_have_no_effect() -> None:
    notes = " ".join(resolved(judged(reward_timeout_s=3, reward_tokenizer="hf", micro_batch_size=4)).notes)
    for key in ("reward_timeout_s", "reward_tokenizer", "micro_batch_size"):
        assert f"reward.{key}" in notes
