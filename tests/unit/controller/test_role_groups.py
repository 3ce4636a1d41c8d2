"""Role groups: a role on a group returns what the role itself would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from mindspeed_dpo.batches import PreferenceBatch, RolloutBatch
from mindspeed_dpo.config.settings.reference_model import ReferenceConfig
from mindspeed_dpo.controller.role_groups import (
    ActorGroup,
    ReferenceGroup,
    RewardGroup,
    RolloutGroup,
    WeightsMismatch,
)
from mindspeed_dpo.engine.checkpoints.saved_reference import SavedReference
from mindspeed_dpo.storage.digests import FileDigest
from mindspeed_dpo.workers.role_interfaces.actor_interface import Actor
from mindspeed_dpo.workers.role_interfaces.reference_interface import Reference
from mindspeed_dpo.workers.role_interfaces.rollout_interface import Rollout
from mindspeed_dpo.workers.role_values import ReplicaValues
from mindspeed_dpo.workers.scorer import Scored


class Completed:
    """Results that are available at once."""

    def __init__(self, replies: list[Any]) -> None:
        self._results = replies

    def result(self) -> list[Any]:
        """The results in rank order."""
        return self._results


class RecordingGroup:
    """Processes that return prepared results and record their calls."""

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)
        self.requests: list[tuple[Any, ...]] = []

    size, host = 3, "10.0.0.1"

    def call(self, method: Callable[..., Any], *args: Any) -> list[Any]:
        self.requests.append((method, *(a.tolist() if isinstance(a, np.ndarray) else a for a in args)))
        return self.replies

    def start(self, method: Callable[..., Any], *args: Any) -> Completed:
        return Completed(self.call(method, *args))

    def build(self, role: str) -> None:
        raise AssertionError("a handle builds nothing")

    drop = build


def logps(*values: float) -> np.ndarray:
    return np.array([[value, -value] for value in values], np.float32).reshape(-1, 2)


@pytest.mark.parametrize(("handle", "method"), [(ReferenceGroup, Reference.log_probs), (ActorGroup, Actor.log_probs)])
def test_log_probabilities_come_in_the_order_of_the_pairs_from_any_replica(
    handle: type[ReferenceGroup], method: Callable[..., Any]
) -> None:
    shares = (ReplicaValues(np.array([0, 2]), logps(3, 1)), ReplicaValues(np.array([1]), logps(2)))
    nobodys = ReplicaValues(np.zeros(0, np.int64), logps())
    group = RecordingGroup(shares[0], None, shares[1], None, nobodys)
    actual = handle(group).log_probs([7, 5, 6])
    assert actual.dtype == np.float64 and actual.tolist() == [[3, -3], [2, -2], [1, -1]]
    assert group.requests == [(method, [7, 5, 6])]


def test_update_and_evaluate_pass_on_their_arguments_and_the_only_result() -> None:
    group = RecordingGroup(None, {"loss": 0.5}, None)
    actor = ActorGroup(group)
    assert actor.update(9, [1, 0], logps(1, 2)) == {"loss": 0.5}
    assert actor.evaluate([1, 0], logps(1, 2)) == {"loss": 0.5}
    values = [[1, -1], [2, -2]]
    assert group.requests == [(Actor.update, 9, [1, 0], values), (Actor.evaluate, [1, 0], values)]


@pytest.mark.parametrize("replies", [[None, None], [{"loss": 1.0}, {"loss": 1.0}]], ids=["none", "two"])
@pytest.mark.parametrize("verb", ["update", "evaluate"])
def test_anything_but_one_set_of_metrics_is_an_error(verb: str, replies: list[Any]) -> None:
    actor = ActorGroup(RecordingGroup(*replies))
    arguments = (0, [1], logps(1)) if verb == "update" else ([1], logps(1))
    with pytest.raises(ValueError):
        getattr(actor, verb)(*arguments)


def test_save_gives_the_folder_and_load_hands_on_the_parts() -> None:
    group = RecordingGroup("out/iter_0000003", "out/iter_0000003")
    actor = ActorGroup(group)
    assert actor.save(3, {"num_tokens": 5}) == "out/iter_0000003"
    actor.load("out/iter_0000003", True, False)
    assert group.requests == [
        (Actor.save, 3, {"num_tokens": 5}, None),
        (Actor.load, "out/iter_0000003", True, False),
    ]


def test_a_save_is_finished_once_all_processes_have_written() -> None:
    waiting, written = RecordingGroup(True, False), RecordingGroup(True, True)
    assert not ActorGroup(waiting).finish_save(False) and waiting.requests == [(Actor.is_written, False)]
    assert ActorGroup(written).finish_save(True)
    assert written.requests == [(Actor.is_written, True), (Actor.finish_save,)]


def rollouts(*rows: int, version: int = 2) -> RolloutBatch:
    replies = PreferenceBatch.from_lists([[row] for row in rows], [[[row], [row, row]] for row in rows])
    return RolloutBatch(replies, torch.tensor(rows), torch.ones((len(rows), 2), dtype=torch.bool), version=version)


def test_rollouts_and_scores_of_the_replicas_are_joined_in_their_order() -> None:
    group = RecordingGroup(rollouts(4, 2), None, rollouts(9))
    batch = RolloutGroup(group, group, num_senders=1).generate(np.array([4, 2, 9]), 30)
    assert batch.rows.tolist() == [4, 2, 9] and group.requests == [(Rollout.generate, [4, 2, 9], 30)]
    parts = [Scored(logps(1, 2), {1: "why"}), None, Scored(logps(3), {0: "because"})]
    scored = RewardGroup(RecordingGroup(*parts)).score(batch)
    assert scored.scores.tolist() == logps(1, 2, 3).tolist() and scored.failures == {1: "why", 2: "because"}


def test_a_reference_follows_where_it_is_set_to_every_so_many_steps() -> None:
    settings = {"ref_model_sync_steps": 2, "ref_model_mixup_alpha": 0.25}
    for follows in (False, True):
        group = RecordingGroup(None)
        handle = ReferenceGroup(group, settings=ReferenceConfig(sync_ref_model=follows, **settings))
        assert [handle.sync_if_due(done) for done in (1, 2, 3, 4)] == [False, follows] * 2
        assert group.requests == [(Reference.ema_update, 0.25)] * (2 * follows)


def test_a_reference_on_other_processes_receives_what_it_follows_and_is_part_of_every_checkpoint() -> None:
    settings = ReferenceConfig(sync_ref_model=True, ref_model_sync_steps=2, ref_model_mixup_alpha=0.25)
    written = [SavedReference("out/reference", {name: FileDigest(1, ("0",))}) for name in ("a", "b")]
    trained, group = RecordingGroup("10.0.0.1:7", None), RecordingGroup(*written)
    handle, actor = ReferenceGroup(group, settings=settings), ActorGroup(trained)
    handle.follow(trained, num_senders=3)
    link = ("10.0.0.1:7", 3, group.size)
    assert trained.requests == [(Actor.host_weight_group, trained.host, "ref"), (Actor.join_weight_group, *link, "ref")]
    assert [handle.sync_if_due(done) for done in (1, 2)] == [False, True]
    assert trained.requests[2:] == [(Actor.send_weights, 2, "ref")]
    assert group.requests == [(Reference.join_weight_group, *link), (Reference.receive_weights, 2, 0.25)]
    actor.save_with(handle)
    actor.save(2)
    saved = SavedReference("out/reference", {**written[0].digests, **written[1].digests})
    assert trained.requests[3:] == [(Actor.save, 2, {}, None, saved)]
    actor.load("there", True, True)
    assert group.requests[2:] == [(Reference.save, 2), (Reference.load, "there")]


def test_rollouts_of_different_policies_are_no_batch() -> None:
    group = RecordingGroup(rollouts(4), rollouts(5, version=3))
    with pytest.raises(ValueError, match=r"versions \[2, 3\]"):
        RolloutGroup(group, group, num_senders=1).generate(np.array([4, 5]), 0)


def test_a_rollout_in_the_processes_of_the_actor_only_takes_the_version() -> None:
    group = RecordingGroup(1, 1)
    RolloutGroup(group, group, num_senders=1).update_weights(7)
    assert group.requests == [(Rollout.receive_weights, 7)]


def test_a_rollout_elsewhere_is_linked_once_and_receives_what_is_published() -> None:
    actor, rollout = RecordingGroup("10.0.0.1:5", None), RecordingGroup(None, None, None)
    handle = RolloutGroup(rollout, actor, num_senders=2)
    handle.update_weights(7)
    link = ("10.0.0.1:5", 2, 3)
    requests = [(Actor.host_weight_group, "10.0.0.1"), (Actor.join_weight_group, *link), (Actor.send_weights, 7)]
    assert actor.requests == requests
    assert rollout.requests == [(Rollout.join_weight_group, *link), (Rollout.receive_weights, 7)]


def test_weights_that_differ_after_the_transfer_are_named() -> None:
    actor, rollout = RecordingGroup({"a": 1, "b": 2}), RecordingGroup({"a": 1, "b": 2}, {"a": 1, "b": 3})
    group = RolloutGroup.__new__(RolloutGroup)
    group._group, group._actor, group._validate, group._is_separate = rollout, actor, True, True
    with pytest.raises(WeightsMismatch, match="version 3 the rollout's b differs from the actor's"):
        group.update_weights(3)
