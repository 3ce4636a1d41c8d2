"""Generation by vLLM itself: the tokens of the builtin engine and of Hugging Face, and the actor's log-probabilities.

One engine for each family, as its start takes longer than all that is asked of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, Qwen3Config, Qwen3MoeConfig

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.vllm_engine.engine_arguments import sampling_arguments
from mindspeed_dpo.vllm_engine.leftovers import shared_segments
from mindspeed_dpo.workers.colocated_roles import ColocatedRoles
from mindspeed_dpo.workers.logprobs import score_tokens
from mindspeed_dpo.workers.role_values import ReplicaValues, join_replicas
from tests.support.runs import Layout
from tests.support.vllm_python import NEEDS_VLLM, vllm_python
from tests.unit.workers.rollouts import PROMPTS, ROLLOUT, Jobs, online_run

pytestmark = [pytest.mark.distributed, pytest.mark.slow, NEEDS_VLLM]

SIZES: dict[str, Any] = {
    "vocab_size": 262, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "initializer_range": 0.1, "max_position_embeddings": 256,
    "head_dim": 32,
}  # fmt: skip
"""vLLM's attention on the host takes no heads of 16, which other tests have."""
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "norm_topk_prob": True}
EXPERT_KEYS = {
    "num_experts": 4, "moe_router_topk": 2, "moe_ffn_hidden_size": 48, "norm_topk_prob": True, "qk_layernorm": True,
}  # fmt: skip
ADAPTERS = {"lora_target_modules": ["linear_qkv", "up_proj", "o_proj", "down_proj"], "lr": 0.05}
BLOCK = 32
"""Tokens of a block, the unit of the prefix cache; 128 on the host unless it is set."""
ENGINE = f"{{{{python: {{python}}, enforce_eager: true, block_size: {BLOCK}, max_num_batched_tokens: {4 * BLOCK}}}}}"
"""So few tokens in a step that not all prompts begin in the first."""
ROWS, UPDATES, TOLERANCE = [4, 0, 2, 1, 3], 20, 1e-4
STALE = 1e-2


@dataclass(frozen=True)
class Family:
    """A model, its settings, and where it is trained and generates."""

    config: PreTrainedConfig
    keys: dict[str, Any]
    layout: Layout
    own: int
    inference_tp: int = 1


FAMILIES = {
    # Its output layer is the embedding, and adapters are merged; the engines are beside the replicas of the actor.
    "qwen3": Family(
        Qwen3Config(**SIZES, tie_word_embeddings=True),
        {"qk_layernorm": True, "untie_embeddings_and_output_weights": False, **ADAPTERS},
        (2, 1, 1),
        0,
    ),
    # Experts of two training processes.
    "qwen3_moe": Family(
        Qwen3MoeConfig(**SIZES, **EXPERTS), {**EXPERT_KEYS, "expert_model_parallel_size": 2}, (1, 1, 2), 1
    ),
    # One engine over two processes.
    "llama": Family(LlamaConfig(**SIZES), {}, (1, 2, 1), 2, inference_tp=2),
}


@dataclass(frozen=True)
class Scenario:
    """The jobs of a run with vLLM, and the tokens that others gave greedily with the first weights."""

    name: str
    jobs: Jobs
    builtin: list[list[int]]
    hf: list[list[int]]


@pytest.fixture(scope="module", params=FAMILIES)
def scenario(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenario]:
    family, folder = FAMILIES[request.param], tmp_path_factory.mktemp("vllm")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(family.config, dtype=torch.float32)
    model.save_pretrained(folder / "model")
    builtin = Jobs(run_of(family, folder, top_k=1, **{"inference_expert_model_parallel_size": 1}), folder)
    builtin.hand_over(0)
    tokens = tokens_of(builtin.generate(ROWS, 0, 0))
    engine = ENGINE.format(python=vllm_python(folder))
    jobs = Jobs(run_of(family, folder, vllm=engine, rollout_engine="vllm"), folder)
    jobs.hand_over(0)
    engines = [psutil.Process(pid) for pid in jobs.rollout.inspect(engine_pid) if pid]
    started = [process for engine in engines for process in (engine, *engine.children(recursive=True))]
    assert len(engines) == (family.layout[0] if family.own == 0 else 1)
    yield Scenario(request.param, jobs, tokens, [greedy(model, PROMPTS[row]) for row in ROWS for _ in range(2)])
    segments = shared_segments(process.pid for process in started)
    folders = [Path(engine.environ()["TMPDIR"]) for engine in engines]
    jobs.rollout.leave()
    assert not psutil.wait_procs(started, timeout=60)[1]
    assert not [path for path in (*map(Path, segments), *folders) if path.exists()]


def run_of(family: Family, folder: Path, **more: Any) -> RunConfig:
    vllm = more.pop("vllm", None)
    overrides = [] if vllm is None else [f"actor_rollout_ref.actor_rollout.vllm={vllm}"]
    return online_run(
        folder, family.layout, family.inference_tp, family.own, overrides, load=folder / "model", kv_channels=32,
        seq_length=3 * BLOCK, max_prompt_length=3 * BLOCK - 12, **{**family.keys, **more},
    )  # fmt: skip


def greedy(model: Any, prompt: list[int]) -> list[int]:
    """The tokens that Hugging Face's model gives, until the end token."""
    with torch.no_grad():
        tokens = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=2)
    return tokens[0, len(prompt) :].tolist()


def tokens_of(rollouts: RolloutBatch) -> list[list[int]]:
    return [response.tolist() for row in rollouts.samples.responses() for response in row]


def engine_pid(colocated: ColocatedRoles) -> int:
    engine = colocated.roles[ROLLOUT].engine
    return 0 if engine is None else engine.pid


def sample_with(colocated: ColocatedRoles, settings: dict[str, Any]) -> None:
    worker = colocated.roles[ROLLOUT]
    worker.role = replace(worker.role, rollout=replace(worker.role.rollout, **settings))


def difference(jobs: Jobs, rollouts: RolloutBatch) -> float:
    """The largest difference of a token's log-probability to the actor's, in nats."""
    assert rollouts.samples.rollout_token_logps is not None
    ours = torch.from_numpy(join_replicas([one for one in jobs.actor.inspect(token_logps, rollouts) if one]))
    return float((ours - rollouts.samples.rollout_token_logps).abs().max())


def token_logps(colocated: ColocatedRoles, rollouts: RolloutBatch) -> ReplicaValues | None:
    actor = colocated.roles["actor"]
    return score_tokens(actor.engine, actor.batch_builder, rollouts.samples)


def test_the_tokens_are_those_of_the_builtin_engine_and_of_hugging_face(scenario: Scenario) -> None:
    scenario.jobs.rollout.inspect(sample_with, {"top_k": 1})
    tokens = tokens_of(scenario.jobs.generate(ROWS, 0, 0))
    scenario.jobs.rollout.inspect(sample_with, {"top_k": 0})
    assert tokens == scenario.builtin == scenario.hf
    assert len({tuple(row) for row in tokens}) == len(ROWS)


def test_log_probabilities_are_the_actors_before_and_after_each_update(scenario: Scenario) -> None:
    jobs = scenario.jobs
    for version in range(1, UPDATES + 1):
        jobs.learn(version - 1)
        before = jobs.generate(ROWS, version, version - 1)
        assert version > 1 or difference(jobs, before) > STALE, "an update must change what stale weights compute"
        jobs.hand_over(version)
        after = jobs.generate(ROWS, version, version)
        assert difference(jobs, after) < TOLERANCE
        actor, rollout = jobs.digests()
        assert actor[0] == rollout[0]
    assert after.version == UPDATES and not torch.equal(before.logps, after.logps)


def test_one_weight_that_is_left_behind_is_noticed(scenario: Scenario) -> None:
    jobs = scenario.jobs
    jobs.hand_over(UPDATES + 1)
    jobs.rollout.inspect(keep, "model.layers.1.self_attn.o_proj.weight")
    jobs.learn(UPDATES + 1)
    jobs.hand_over(UPDATES + 2)
    assert difference(jobs, jobs.generate(ROWS, 3)) < TOLERANCE
    jobs.rollout.inspect(hand_over_kept, UPDATES + 2)
    assert difference(jobs, jobs.generate(ROWS, 3)) > TOLERANCE


def test_responses_to_a_prompt_cost_one_prefill_and_new_weights_none_of_the_old(scenario: Scenario) -> None:
    jobs, version, found = scenario.jobs, 2 * UPDATES, []
    for offset, calls in ((0, 2), (1, 1)):
        jobs.hand_over(version + offset)
        for _ in range(calls):
            counts = [count for count in jobs.rollout.inspect(cached_tokens, version + offset) if count is not None]
            assert len(set(counts)) == 1
            found.append(counts[0])
    shared, every = (RESPONSES - 1) * WHOLE_BLOCKS * BLOCK, RESPONSES * WHOLE_BLOCKS * BLOCK
    assert found == [2 * shared, 2 * every, 2 * shared]


RESPONSES, WHOLE_BLOCKS = 4, 2


def cached_tokens(colocated: ColocatedRoles, version: int) -> int | None:
    """What four responses to each of two prompts, of two blocks and some tokens, find in the prefix cache."""
    worker = colocated.roles[ROLLOUT]
    if worker.engine is None:
        return None
    prompts = [[start + token for token in range(WHOLE_BLOCKS * BLOCK + 5)] for start in (5, 90)]
    request = {
        "version": version,
        "prompts": prompts,
        "seeds": [list(range(RESPONSES))] * len(prompts),
        "sampling": {**sampling_arguments(worker.role, frozenset()), "max_tokens": 2},
    }
    return int(worker.engine.ask("generate", request).integer("cached_tokens"))


def keep(colocated: ColocatedRoles, name: str) -> None:
    shared = colocated.roles[ROLLOUT].weights.shared
    shared.kept = name, shared.tensor(name).clone()


def hand_over_kept(colocated: ColocatedRoles, version: int) -> None:
    rollout = colocated.roles[ROLLOUT]
    name, tensor = rollout.weights.shared.kept
    rollout.weights.shared.tensor(name).copy_(tensor)
    if rollout.engine is not None:
        rollout.engine.ask("load", {"version": version})
