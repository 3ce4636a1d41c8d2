"""The actor over a pool of processes: where policy equals reference, evaluation over any replicas, what it learns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from mindspeed_dpo.algorithms.logp_difference import K3, MAX, MEAN
from mindspeed_dpo.batches import PreferenceBatch
from mindspeed_dpo.batches.logprob_columns import LOGP
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.controller.role_groups import ActorGroup, ReferenceGroup
from mindspeed_dpo.data.datasets.sampler import sampling_of
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import read_metadata
from mindspeed_dpo.workers.colocated_roles import ColocatedRoles
from mindspeed_dpo.workers.logprobs import score_tokens
from mindspeed_dpo.workers.role_values import ReplicaValues, join_replicas
from mindspeed_dpo.workers.setup.open_datasets import open_pairs
from tests.support.closeness import ROUNDING
from tests.support.processes import PoolGroup
from tests.support.runs import Layout
from tests.unit.workers.pairs import PAIRS, random_run

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

ROWS = np.array([3, 0, 4, 2, 1])
LAYOUTS: list[Layout] = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2)]
StartActor = Callable[..., tuple[PoolGroup, ActorGroup, RunConfig]]


@pytest.fixture
def start_actor(tmp_path: Path) -> StartActor:
    """Builds the actor of a random run under a layout."""

    def build(layout: Layout = (1, 1, 1), **settings: Any) -> tuple[PoolGroup, ActorGroup, RunConfig]:
        run = random_run(tmp_path, layout, **settings)
        group = PoolGroup(run, layout[0] * layout[1] * layout[2])
        group.build("actor")
        return group, ActorGroup(group), run

    return build


@pytest.mark.parametrize("layout", [*LAYOUTS, (2, 1, 2)], ids=str)
def test_a_policy_that_is_its_own_reference_has_loss_ln_2_and_no_reward(
    layout: Layout, start_actor: StartActor
) -> None:
    _, actor, run = start_actor(layout, sequence_parallel=layout[0] > 1)
    rows = ROWS[: run.actor.batch.global_batch_size]
    metrics = actor.update(0, rows, actor.log_probs(rows))
    assert metrics["loss"] == pytest.approx(math.log(2), abs=1e-6)
    names = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
    assert [metrics[name] for name in names] == [0.0] * 4
    assert metrics["grad_norm"] > 0


def expected_means(logps: np.ndarray, references: np.ndarray, beta: float) -> dict[str, float]:
    rewards = beta * (logps.astype(np.float64) - references)
    margins = rewards[:, 0] - rewards[:, 1]
    return {
        "eval/loss": float(np.log1p(np.exp(-margins)).mean()),
        "eval/rewards/chosen": float(rewards[:, 0].mean()),
        "eval/rewards/margins": float(margins.mean()),
        "eval/rewards/accuracies": float((margins > 0).mean()),
        "eval/logps/rejected": float(logps[:, 1].mean()),
    }


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_evaluation_is_the_mean_over_all_rows_whatever_the_layout(layout: Layout, start_actor: StartActor) -> None:
    _, actor, run = start_actor(layout, micro_batch_size=2, global_batch_size=2 * layout[2])
    references = np.linspace(-40, -5, 10, dtype=np.float32).reshape(5, 2)
    before = actor.log_probs(ROWS)
    actual = actor.evaluate(ROWS, references)
    for name, value in expected_means(before, references, run.actor.loss.dpo_beta).items():
        assert actual[name] == pytest.approx(value, rel=2e-6), name
    rewards = run.actor.loss.dpo_beta * (before - references)
    np.testing.assert_allclose(actor.evaluated_margins(), rewards[:, 0] - rewards[:, 1], rtol=1e-5, atol=1e-6)
    assert np.array_equal(actor.log_probs(ROWS), before)
    assert all(name.startswith("eval/") for name in actual)


def test_log_probabilities_come_in_the_order_of_the_rows(start_actor: StartActor) -> None:
    _, actor, _ = start_actor((1, 1, 2))
    in_order = actor.log_probs(np.arange(5))
    np.testing.assert_allclose(actor.log_probs(ROWS), in_order[ROWS], rtol=1e-5)
    assert in_order.shape == (5, 2) and len(np.unique(in_order)) == 10


def test_more_replicas_than_rows_return_values_of_the_rows_alone(start_actor: StartActor) -> None:
    _, actor, _ = start_actor((1, 1, 2))
    assert actor.log_probs(ROWS[:1]).shape == (1, 2)
    metrics = actor.update(0, ROWS[:1], actor.log_probs(ROWS[:1]))
    assert metrics["loss"] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("layout", [(1, 1, 1), (2, 1, 1), (1, 1, 2)], ids=str)
def test_a_live_reference_equals_the_untrained_policy(layout: Layout, start_actor: StartActor) -> None:
    group, actor, _ = start_actor(layout, reference="live")
    group.build("ref")
    reference = ReferenceGroup(group)
    # Not bit by bit: where two copies of the weights lie in memory may choose another kernel for them.
    np.testing.assert_allclose(reference.log_probs(ROWS), actor.log_probs(ROWS), rtol=ROUNDING)
    before = reference.log_probs(ROWS)
    actor.update(0, ROWS, before)
    assert np.array_equal(reference.log_probs(ROWS), before)
    assert not np.array_equal(actor.log_probs(ROWS), before)


def norm_of_the_mean_loss(colocated: ColocatedRoles, rows: np.ndarray, references: np.ndarray) -> float:
    """Gradient norm of the mean loss over the rows, from one plain forward and backward pass in one process."""
    actor, losses = colocated.roles["actor"], []
    actor.engine.wrapped[0].zero_grad_buffer()
    for batch in actor.batch_builder.micro_batches(rows, references):
        ratios = batch.sum_by_response(actor.engine.model(batch)[:, LOGP]) - batch.ref_logps
        losses.append(-logsigmoid(actor.role.loss.dpo_beta * (ratios[:, 0] - ratios[:, 1])))
    torch.cat(losses).mean().backward()
    return math.sqrt(sum(float(p.main_grad.double().square().sum()) for p in actor.engine.model.parameters()))


@pytest.mark.parametrize("rows", [ROWS, ROWS[:3]], ids=["five", "three"])
def test_the_gradient_is_that_of_the_mean_over_the_rows(rows: np.ndarray, start_actor: StartActor) -> None:
    references = np.linspace(-40, -5, 2 * len(rows), dtype=np.float32).reshape(-1, 2)
    group, actor, _ = start_actor(micro_batch_size=2)
    (expected,) = group.inspect(norm_of_the_mean_loss, rows, references)
    assert actor.update(0, rows, references)["grad_norm"] == pytest.approx(expected, rel=1e-5)


def test_learning_raises_the_margin_of_the_pairs_it_learns_from(start_actor: StartActor) -> None:
    _, actor, _ = start_actor(lr=1e-3)
    references = actor.log_probs(ROWS)
    first, *_, last = (actor.update(step, ROWS, references) for step in range(3))
    assert last["loss"] < first["loss"] and last["rewards/margins"] > 0
    assert first["learning_rate"] > last["learning_rate"] > 0


@pytest.mark.parametrize("statistics", [True, False])
def test_token_statistics_are_measured_where_configured(statistics: bool, start_actor: StartActor) -> None:
    _, actor, _ = start_actor(log_token_statistics=statistics)
    metrics = actor.update(0, ROWS, actor.log_probs(ROWS))
    assert ("entropy" in metrics) is ("mean_token_accuracy" in metrics) is statistics
    assert metrics["tokens_computed"] == sum(len(part) for pair in PAIRS for part in pair)


def test_a_saved_actor_says_what_it_is_and_goes_on_from_there(start_actor: StartActor) -> None:
    _, actor, run = start_actor((1, 1, 1), lr=1e-3)
    references = actor.log_probs(ROWS)
    actor.update(0, ROWS, references)
    folder = actor.save(1, {})
    trained = actor.log_probs(ROWS)
    metadata = read_metadata(Path(folder))
    assert Path(folder) == Path(run.actor.checkpoint.save) / "iter_0000001"
    assert metadata["iteration"] == 1
    assert metadata["sampling"] == sampling_of(run, 5)
    assert metadata["output_dir"] == str(Path(run.loop.output_dir).resolve())
    assert metadata["topology"] == {"tp": 1, "pp": 1, "dp": 1, "cp": 1, "chunks": 1}
    actor.update(1, ROWS, references)
    assert not np.array_equal(actor.log_probs(ROWS), trained)
    actor.load(folder, True, True)
    assert np.array_equal(actor.log_probs(ROWS), trained)


def test_a_saved_actor_is_read_under_another_layout(start_actor: StartActor) -> None:
    _, actor, _ = start_actor((1, 1, 1))
    folder = actor.save(1, {})
    before = actor.log_probs(ROWS)
    _, other, _ = start_actor((2, 1, 1))
    other.load(folder, True, False)
    np.testing.assert_allclose(other.log_probs(ROWS), before, rtol=1e-5)


def test_parts_that_are_not_to_be_saved_are_not(start_actor: StartActor) -> None:
    _, actor, _ = start_actor(no_save_optim=True, no_save_rng=True)
    metadata = read_metadata(Path(actor.save(1, {})))
    assert (metadata["optimizer"], metadata["rng"]) == (False, False)


def test_pairs_at_hand_are_trained_on_like_rows(start_actor: StartActor) -> None:
    actual = []
    for at_hand in (False, True):
        group, actor, run = start_actor((1, 1, 2), global_batch_size=4)
        pairs = open_pairs(run).batch(ROWS[:4]) if at_hand else ROWS[:4]
        references = actor.log_probs(pairs)
        metrics = actor.update(1, pairs, references)
        # What the process has used since it began, not what the step did.
        assert metrics.pop("memory/peak_bytes") > 0
        actual.append((references.tolist(), metrics, actor.log_probs(ROWS).tolist()))
        group.leave()
    assert actual[0] == actual[1]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_log_probabilities_of_the_rollout_are_compared_and_change_nothing_else(
    layout: Layout, start_actor: StartActor
) -> None:
    """With responses held fixed a step is the same to the bit, whatever engine says how probable they were."""
    actual = []
    for offset in (None, 0.25):
        group, actor, run = start_actor(layout, global_batch_size=4, lr=1e-2)
        group.leave()
        run = replace(run, actor=replace(run.actor, pairing=replace(run.actor.pairing, ppo_mini_batch_size=2)))
        group = PoolGroup(run, group.size)
        group.build("actor")
        actor = ActorGroup(group)
        pairs = open_pairs(run).batch(ROWS[:4])
        own = join_replicas([share for share in group.inspect(token_logps, pairs) if share is not None])
        references = actor.log_probs(pairs)
        if offset is not None:
            theirs = torch.from_numpy(own).float() + offset * torch.linspace(-1, 1, len(own))
            pairs = replace(pairs, rollout_token_logps=theirs)
            assert actor.rollout_difference(pairs) == pytest.approx(differences(len(own), len(own)), abs=2e-5)
        metrics = actor.update(0, pairs, references)
        assert metrics.pop("memory/peak_bytes") > 0
        actual.append((metrics, actor.log_probs(ROWS).tolist()))
        group.leave()
    measured = {name: actual[1][0].pop(name) for name in (MEAN, MAX, K3)}
    assert actual[0] == actual[1]
    # The second optimizer step has other weights than the rollout had, so its tokens do not count.
    first = sum(len(chosen) + len(rejected) for _, chosen, rejected in (PAIRS[row] for row in ROWS[:2]))
    assert measured == pytest.approx(differences(len(own), first), abs=2e-5)


def differences(count: int, first: int) -> dict[str, float]:
    """The metrics of the first tokens of so many, to whose log-probabilities values from -0.25 to 0.25 were added."""
    log_ratio = -0.25 * torch.linspace(-1, 1, count)[:first].double()
    values = {MEAN: log_ratio.abs().mean(), MAX: log_ratio.abs().max(), K3: (log_ratio.expm1() - log_ratio).mean()}
    return {name: float(value) for name, value in values.items()}


def token_logps(colocated: ColocatedRoles, pairs: PreferenceBatch) -> ReplicaValues | None:
    actor = colocated.roles["actor"]
    return score_tokens(actor.engine, actor.batch_builder, pairs)


def test_several_optimizer_steps_of_an_iteration_are_those_of_as_many_updates(start_actor: StartActor) -> None:
    settings = {"global_batch_size": 4, "lr_decay_style": "constant", "lr": 1e-2}
    group, actor, run = start_actor(**settings)
    references = actor.log_probs(ROWS[:4])
    for part in (slice(0, 2), slice(2, 4)):
        actor.update(0, ROWS[:4][part], references[part])
    expected = actor.log_probs(ROWS)
    group.leave()
    run = replace(run, actor=replace(run.actor, pairing=replace(run.actor.pairing, ppo_mini_batch_size=2)))
    group = PoolGroup(run, 1)
    group.build("actor")
    actor = ActorGroup(group)
    metrics = actor.update(0, ROWS[:4], references)
    np.testing.assert_array_equal(actor.log_probs(ROWS), expected)
    assert metrics["beta"] == run.actor.loss.dpo_beta


def test_beta_follows_its_schedule(start_actor: StartActor) -> None:
    _, actor, run = start_actor(dpo_beta=0.4, dpo_beta_end=0.1, dpo_beta_style="linear", train_iters=4)
    rows = ROWS[: run.actor.batch.global_batch_size]
    references = actor.log_probs(rows) + np.array([0.5, -0.5], np.float32)
    actual = [actor.update(step, rows, references) for step in (0, 3)]
    assert [metrics["beta"] for metrics in actual] == pytest.approx([0.4, 0.1])
    assert actual[0]["rewards/chosen"] == pytest.approx(0.4 * -0.5, abs=1e-6)


def test_an_offloaded_reference_says_the_same(start_actor: StartActor) -> None:
    actual = []
    for offload in (False, True):
        group, _, run = start_actor(reference="live")
        run = replace(run, ref=replace(run.ref, reward=replace(run.ref.reward, offload=offload)))
        group = PoolGroup(run, 1)
        group.build("ref")
        actual.append(ReferenceGroup(group).log_probs(ROWS).tolist())
        assert group.inspect(is_offloaded) == [offload]
        group.leave()
    assert actual[0] == actual[1]


def is_offloaded(colocated: ColocatedRoles) -> bool:
    return colocated.roles["ref"].engine._device is not None
