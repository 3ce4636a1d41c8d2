"""The rollout over pools of processes: it generates with the actor's weights, wherever either of them runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mindspeed_dpo.workers.colocated_roles import ColocatedRoles
from mindspeed_dpo.workers.role_interfaces.rollout_interface import Rollout
from tests.support.processes import num_threads, pool, rest
from tests.support.runs import Layout
from tests.unit.workers.rollouts import EXPERTS, PROMPTS, ROLLOUT, Jobs, online_run

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

OVERLAP = {"use_distributed_optimizer": True, "overlap_param_gather": True, "overlap_grad_reduce": True}
ADAPTERS = {"lora_target_modules": ["linear_qkv", "up_proj", "o_proj", "down_proj"], "lr": 0.05}
ALL_ADAPTERS = {"lora_target_modules": ["linear_qkv", "linear_fc1", "linear_fc2"], "lr": 0.05}
EP2 = {"expert_model_parallel_size": 2}
TP2_EP2 = {"moe_tp_extend_ep": True, "sequence_parallel": True}
ALL_EXPERTS = {"inference_expert_model_parallel_size": 1}
VIRTUAL = {"num_layers": 4, "num_layers_per_virtual_pipeline_stage": 1}
# Layout of training, tensor-parallel size of the rollout, processes of its own, further settings.
PLACEMENTS: dict[str, tuple[Layout, int, int, dict[str, Any]]] = {
    "own": ((2, 1, 1), 1, 1, {}),
    "own, two ranks": ((1, 2, 1), 2, 2, {}),
    "own, two replicas": ((1, 1, 2), 1, 2, OVERLAP),
    "in place": ((1, 1, 1), 1, 0, {}),
    "in place, two ranks": ((2, 1, 1), 2, 0, {}),
    "in place, two replicas": ((1, 1, 2), 1, 0, OVERLAP),
    "copy, two replicas": ((1, 2, 1), 1, 0, {}),
    "copy, two ranks": ((1, 2, 1), 2, 0, {}),
    "copy of replicas": ((1, 1, 2), 2, 0, OVERLAP),
    "copy, other ranks": ((2, 1, 1), 1, 0, {}),
    "own, with adapters": ((2, 1, 1), 1, 1, ADAPTERS),
    "in place, with adapters": ((1, 1, 2), 1, 0, {**OVERLAP, **ADAPTERS}),
    "own, of two that share rows": ((1, 1, 1), 1, 1, {"context_parallel_size": 2}),
    "in place, two that share rows": ((1, 1, 1), 1, 0, {"context_parallel_size": 2, **OVERLAP}),
    "copy of two that share rows": ((1, 1, 1), 2, 0, {"context_parallel_size": 2}),
    "copy, with adapters": ((1, 2, 1), 2, 0, ADAPTERS),
    "own, of virtual stages": ((2, 2, 1), 1, 1, VIRTUAL),
    "copy of virtual stages, with adapters": ((1, 2, 1), 2, 0, {**VIRTUAL, **ADAPTERS}),
    "experts of replicas, in place": ((1, 1, 2), 1, 0, {**EXPERTS, **EP2, **OVERLAP}),
    "experts of replicas, copy of all on each": ((1, 1, 2), 1, 0, {**EXPERTS, **EP2, **ALL_EXPERTS}),
    "experts of replicas, copy on tensor ranks": ((1, 1, 2), 2, 0, {**EXPERTS, **EP2, **ALL_EXPERTS}),
    "experts of tensor ranks, in place": ((2, 1, 1), 2, 0, {**EXPERTS, **TP2_EP2}),
    "experts of tensor ranks, own": ((2, 1, 1), 1, 1, {**EXPERTS, **TP2_EP2}),
    "experts of tensor ranks, own two ranks": ((2, 1, 1), 2, 2, {**EXPERTS, **TP2_EP2, **ALL_EXPERTS}),
    "experts of tensor ranks, copy on replicas": ((2, 1, 1), 1, 0, {**EXPERTS, **TP2_EP2}),
    "experts of a stage, copy of all on each": ((1, 2, 2), 1, 0, {**EXPERTS, **EP2, **ALL_EXPERTS}),
    "experts of a stage, own two ranks": ((1, 2, 2), 2, 2, {**EXPERTS, **EP2, **ALL_EXPERTS}),
    "experts of a stage, own replicas": ((1, 2, 2), 1, 2, {**EXPERTS, **EP2}),
    "experts of tensor ranks, in place, with adapters": ((2, 1, 1), 2, 0, {**EXPERTS, **TP2_EP2, **ALL_ADAPTERS}),
    "experts of replicas, own, with adapters": ((1, 1, 2), 1, 1, {**EXPERTS, **EP2, **ALL_ADAPTERS}),
    "experts of two replicas of tensor ranks, in place": ((2, 1, 2), 2, 0, {**EXPERTS, **TP2_EP2, **EP2}),
}
# A group that is left behind has about fifty.
FEW_THREADS = 10
Build = Callable[..., Jobs]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds actor and rollout."""
    folder = tmp_path_factory.mktemp("online")

    def jobs(layout: Layout = (1, 1, 1), inference_tp: int = 1, own: int = 0, **settings: Any) -> Jobs:
        return Jobs(online_run(folder, layout, inference_tp, own, **settings), folder)

    return jobs


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_rollout_generates_with_the_trained_weights(build: Build, placement: str) -> None:
    layout, inference_tp, own, settings = PLACEMENTS[placement]
    jobs = build(layout, inference_tp, own, seq_length=12, **settings)
    initial = equal(*jobs.digests())
    rows = [4, 0, 2]
    # Before the first update the policy is the reference, whose weights the rollout reads for this.
    greedy, reference = jobs.greedy(rows), jobs.greedy(rows, True)
    assert torch.equal(greedy, reference)
    for version in (1, 2):
        jobs.learn(step=version - 1)
        assert jobs.hand_over(version) == [version] * jobs.run.num_processes(ROLLOUT)
        # Before anything calls the actor: what its last update made of the weights must be there already.
        rollouts = jobs.generate(rows, 7, version)
        torch.testing.assert_close(rollouts.logps, jobs.logps(rollouts.samples), atol=1e-4, rtol=1e-4)
        assert initial != equal(*jobs.digests())
        assert rollouts.version == version and rollouts.rows.tolist() == rows
        assert [prompt.tolist() for prompt in rollouts.samples.prompts()] == [PROMPTS[row] for row in rows]
    assert torch.equal(jobs.greedy(rows, True), reference) and not torch.equal(jobs.greedy(rows), reference)
    assert torch.equal(jobs.generate(rows, 7, version).samples.response_tokens, rollouts.samples.response_tokens)


def test_a_response_depends_on_its_number_and_not_on_the_process(build: Build) -> None:
    jobs = build((1, 1, 2))
    everything = jobs.generate([0, 1, 2, 3], 10)
    later = jobs.generate([2, 3], 12)
    assert torch.equal(everything.select([2, 3]).samples.response_tokens, later.samples.response_tokens)
    other = jobs.generate([2, 3], 13)
    assert not torch.equal(later.samples.response_lengths, other.samples.response_lengths) or not torch.equal(
        later.samples.response_tokens, other.samples.response_tokens
    )
    few = build((1, 1, 2), num_samples_per_step=1).generate([0, 1, 2, 3], 10)
    assert torch.equal(few.samples.response_tokens, everything.samples.response_tokens)


def test_a_replica_without_prompts_says_nothing(build: Build) -> None:
    jobs = build((1, 1, 2))
    first, second = jobs.rollout.call(Rollout.generate, [3], 0)
    assert first.num_prompts == 1 and second is None


def test_only_the_first_rank_of_a_replica_speaks(build: Build) -> None:
    first, second = build((2, 1, 1), 2).rollout.call(Rollout.generate, [3, 1], 0)
    assert first.num_prompts == 2 and second is None


def test_responses_end_with_the_tokenizers_end_token(build: Build) -> None:
    rollouts = build(n_samples_per_prompt=64, temperature=5.0, max_tokens_to_oom=100000, seq_length=20).generate(
        [0, 1, 2, 3, 4], 0
    )
    responses = [response for row in rollouts.samples.responses() for response in row]
    ended = rollouts.ended.flatten().tolist()
    assert any(ended) and not all(ended)
    for response, end in zip(responses, ended, strict=True):
        assert (response == 2).nonzero().flatten().tolist() == ([len(response) - 1] if end else [])
        assert end or len(response) == 12


def test_training_weights_are_used_in_place_and_copies_are_copies(build: Build) -> None:
    assert build((2, 1, 1), 2).actor.inspect(shares_memory) == [True, True]
    assert build((2, 1, 1), 1).actor.inspect(shares_memory) == [False, False]


def test_another_version_than_the_one_held_is_refused(build: Build) -> None:
    jobs = build()
    jobs.hand_over(3)
    (refusal,) = jobs.rollout.inspect(refused, Rollout.generate, [0], 0, 4)
    assert refusal == "policy version 4 was requested, but the rollout holds version 3"


def test_a_rollout_that_received_nothing_does_not_generate(build: Build) -> None:
    jobs = build((1, 1, 1), 1, 1, load=None, random_init=True, finetune=False)
    (refusal,) = jobs.rollout.inspect(refused, Rollout.generate, [0], 0)
    assert refusal == "the rollout has no weights yet; the actor must send them before the first prompt"


def test_a_link_is_for_a_rollout_of_its_own_and_receiving_needs_it(build: Build) -> None:
    (refusal,) = build().rollout.inspect(refused, Rollout.join_weight_group, "127.0.0.1:1", 1, 1)
    assert refusal == "a rollout in the actor's processes needs no weight group"
    (refusal,) = build((1, 1, 1), 1, 1).rollout.inspect(refused_without_link)
    assert refusal == "the rollout has not joined a weight group with the actor; call join_weight_group on both first"


def test_jobs_that_are_over_leave_no_threads_behind(build: Build) -> None:
    build((1, 1, 2), **OVERLAP)
    rest()
    before = pool(2).run(num_threads)
    build((1, 1, 2), **OVERLAP).learn()
    build((2, 1, 1), 1).learn()
    rest()
    assert max(pool(2).run(num_threads)) <= max(before) + FEW_THREADS


def equal(actor: list[dict[str, int]], rollout: list[dict[str, int]]) -> dict[str, int]:
    """The one number of every replica on both sides."""
    first = actor[0]
    assert all(first == other for other in (*actor, *rollout))
    return first


def shares_memory(colocated: ColocatedRoles) -> bool:
    actor, rollout = colocated.roles["actor"], colocated.roles[ROLLOUT]
    trained = {parameter.data_ptr() for parameter in actor.engine.model.parameters()}
    return {tensor.data_ptr() for tensor in rollout.weights.tensors.values()} == trained


def refused(colocated: ColocatedRoles, method: Callable[..., Any], *args: Any) -> str:
    with pytest.raises((ValueError, RuntimeError)) as caught:
        colocated.call(method, *args)
    return str(caught.value)


def refused_without_link(colocated: ColocatedRoles) -> str:
    colocated.build(ROLLOUT)
    return refused(colocated, Rollout.receive_weights, 1)
