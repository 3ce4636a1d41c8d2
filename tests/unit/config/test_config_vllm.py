"""vLLM as the engine that generates: what its settings mean, and what does not go with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mindspeed_dpo.config.estimates.run_summary import plan_lines
from mindspeed_dpo.config.load import check
from mindspeed_dpo.config.loading.compose import compose
from mindspeed_dpo.config.settings.generation import VLLM_OWN_KEYS
from mindspeed_dpo.vllm_engine.engine_arguments import engine_arguments, response_seeds, sampling_arguments
from tests.unit.config.small_config import Tree, online_tree, problems, put, resolved

OVERRIDE = (
    "actor_rollout_ref.actor_rollout.vllm={python: /opt/vllm/bin/python, timeout_s: 5, enforce_eager: true, "
    "gpu_memory_utilization: 0.6, compilation_config: {level: 1}, dtypes: [a, 2]}"
)
EXPERTS: dict[str, Any] = {"num_experts": 4, "moe_router_topk": 2, "moe_ffn_hidden_size": 48}


def with_vllm(vllm: dict[str, Any] | None = None, **settings: Any) -> Tree:
    tree = online_tree(rollout_engine="vllm", vllm=vllm)
    for key, value in settings.items():
        put(tree, key, value)
    return tree


@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        (with_vllm({"model": "other"}), "sets model, which follows from load; set that key"),
        (with_vllm({"max_model_len": 9}), "sets max_model_len, which follows from seq_length; set that key"),
        (with_vllm({"quantization": "fp8"}), "sets quantization, which this trainer chooses; remove it"),
        (with_vllm({"python": 3}), "must give the path of an interpreter as python"),
        (with_vllm({"timeout_s": 0}), "must give a positive number of seconds as timeout_s"),
        (with_vllm({"start_timeout_s": "soon"}), "must give a positive number of seconds as start_timeout_s"),
        (with_vllm({"sleep": True}), "must give 0, 1 or 2 as sleep"),
        (with_vllm({"enable_sleep_mode": True}), "sets enable_sleep_mode, which follows from vllm.sleep"),
        (
            online_tree(rollout_engine="vllm", vllm={"sleep": 2}, num_gpus_for_infer=1),
            "lets engines sleep on devices of their own",
        ),
        (
            with_vllm(online_method="xpo", n_samples_per_prompt=2),
            "rollout_engine=vllm cannot be combined with online_method=xpo, which samples from a second model",
        ),
        (
            with_vllm(eval_interval=1, split="90,10,0", ref_model="other"),
            "cannot generate responses of a reference that the policy does not start as",
        ),
        (
            with_vllm(**EXPERTS, expert_model_parallel_size=2, inference_expert_model_parallel_size=2),
            "inference_expert_model_parallel_size=2 must be 1 or inference_tensor_model_parallel_size=1",
        ),
    ],
)
def test_a_setting_that_does_not_fit_is_one_problem(tree: Tree, problem: str) -> None:
    actual = problems(tree)
    assert len(actual) == 1 and problem in actual[0], actual


def test_arguments_reach_the_engine_as_yaml_reads_them() -> None:
    run = check(
        compose("online_dpo_trainer_tiny", [OVERRIDE, "actor_rollout_ref.actor_rollout.rollout_engine=vllm"]),
        exists=lambda path: True,
    )
    assert run.rollout is not None
    rollout = run.rollout.rollout
    assert [rollout.vllm_setting(name) for name in VLLM_OWN_KEYS] == ["/opt/vllm/bin/python", 5, 1800.0, 0]
    own = {"enforce_eager": True, "gpu_memory_utilization": 0.6, "compilation_config": {"level": 1}, "dtypes": ["a", 2]}
    assert rollout.vllm_arguments() == own
    arguments = engine_arguments(run.rollout, Path("weights"))
    assert {name: arguments[name] for name in own} == own
    assert (arguments["max_model_len"], arguments["max_num_seqs"], arguments["dtype"]) == (40, 64, "float32")


def test_the_written_run_composes_to_the_same(tmp_path: Path) -> None:
    run = resolved(with_vllm({"python": "p", "enforce_eager": True, "compilation_config": {"level": 1}}))
    tree = yaml.safe_load(run.as_yaml())
    assert tree["actor_rollout_ref"]["actor_rollout"]["vllm"] == dict(run.actor.rollout.vllm or {})
    assert resolved(tree) == run


def test_sampling_keys_have_their_meaning_and_only_the_runs_stop_tokens_count() -> None:
    keys = {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "repetition_penalty": 1.2}
    run = resolved(with_vllm(**keys))
    arguments = sampling_arguments(run.actor, frozenset({7, 2}))
    assert {key: arguments[key] for key in keys} == keys
    assert (arguments["stop_token_ids"], arguments["ignore_eos"], arguments["max_tokens"]) == ([2, 7], True, 128)


def test_each_response_of_a_run_has_a_seed_of_its_own() -> None:
    seeds = [seed for run in (1, 2) for number in range(50) for seed in response_seeds(run, number, 4)]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 1 << 63 for seed in seeds)
    assert response_seeds(1, 3, 2) == response_seeds(1, 3, 4)[:2]


def test_the_plan_says_what_vllm_does_not_promise_and_which_keys_it_does_not_use() -> None:
    run = resolved(with_vllm(decode_rows=8, max_tokens_to_oom=10, min_p=0.1, top_p=0.9))
    notes = " ".join(run.notes)
    assert "vLLM does not promise the same bits in other batches" in notes
    assert all(f"{key} has no effect with rollout_engine=vllm" in notes for key in ("decode_rows", "max_tokens_to_oom"))
    assert "applies min_p before top_k and top_p" in notes
    assert any(line.startswith("rollout on") and line.endswith("vLLM") for line in plan_lines(run))
    builtin = resolved(online_tree(vllm={"enforce_eager": True}))
    assert "vllm has no effect: rollout_engine=builtin" in builtin.notes


def test_experts_are_divided_over_the_devices_of_an_engine_only_where_that_is_set() -> None:
    run = resolved(with_vllm(**EXPERTS, expert_model_parallel_size=2))
    assert run.rollout is not None and run.rollout.parallel.expert_parallel_size == 1
