"""Roles as the trainers use them: each runs on a worker group, and the results of its ranks are combined into one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.batches import PreferenceBatch, RolloutBatch
from mindspeed_dpo.config.settings.reference_model import ReferenceConfig
from mindspeed_dpo.controller.worker_group import PendingResults, WorkerGroup
from mindspeed_dpo.engine.checkpoints.saved_reference import SavedReference
from mindspeed_dpo.workers.role_calls import R
from mindspeed_dpo.workers.role_interfaces.actor_interface import REFERENCE, Actor
from mindspeed_dpo.workers.role_interfaces.reference_interface import Reference
from mindspeed_dpo.workers.role_interfaces.reward_interface import Reward
from mindspeed_dpo.workers.role_interfaces.rollout_interface import Rollout
from mindspeed_dpo.workers.role_values import Logps, Pairs, Rows, join_replicas
from mindspeed_dpo.workers.scorer import Scored


class WeightsMismatch(RuntimeError):
    """The rollout's weights differ from the actor's."""


class ActorGroup:
    """The policy as it is trained."""

    def __init__(self, group: WorkerGroup) -> None:
        """Use the actor of a group's processes, where it must be built before the first call."""
        self._group = group
        self._follower: ReferenceGroup | None = None

    def save_with(self, reference: ReferenceGroup) -> None:
        """Save and load an updated reference, which is on processes of its own, with every checkpoint."""
        self._follower = reference

    def log_probs(self, pairs: Pairs) -> Logps:
        """Return the summed log-probability of each response under the current policy: [N, K] float64, in nats."""
        return join_replicas(_outputs(self._group.call(Actor.log_probs, _as_array(pairs)))).astype(np.float64)

    def update(self, step: int, pairs: Pairs, ref_logps: Logps) -> dict[str, float]:
        """Train on the pairs of one iteration.

        Args:
            step: Iteration, counted from 0.
            pairs: N pairs.
            ref_logps: [N, 2] float64 log-probabilities of the reference, in nats.

        Returns:
            Metrics, averaged over the pairs.
        """
        return _only_output(self._group.call(Actor.update, step, _as_array(pairs), ref_logps))

    def rollout_difference(self, responses: PreferenceBatch) -> dict[str, float]:
        """Return the metrics of the difference to the rollout's log-probabilities, which the responses have."""
        return _only_output(self._group.call(Actor.rollout_difference, responses))

    def evaluate(self, rows: Rows, ref_logps: Logps) -> dict[str, float]:
        """Return the metrics of `update` without training, their names with the evaluation prefix.

        Args:
            rows: [N] int64 dataset rows.
            ref_logps: [N, 2] float64 log-probabilities of the reference, in nats.
        """
        return _only_output(self._group.call(Actor.evaluate, np.asarray(rows), ref_logps))

    def evaluated_margins(self) -> NDArray[np.floating]:
        """Return the reward margins of the last evaluation: [N] float32 or float64 in the order of its rows."""
        return join_replicas(_outputs(self._group.call(Actor.evaluated_margins)))

    def save(
        self, iteration: int, metadata: Mapping[str, Any] | None = None, prefetched: RolloutBatch | None = None
    ) -> str:
        """Write a checkpoint, or begin to with `async_save`, and return its folder.

        Args:
            iteration: Iterations completed.
            metadata: JSON values for the checkpoint's metadata.
            prefetched: Rollouts already generated for the next iteration, stored with the checkpoint.
        """
        written = [] if self._follower is None else [self._follower.save(iteration)]
        return self._group.call(Actor.save, iteration, dict(metadata or {}), prefetched, *written)[0]

    def finish_save(self, wait: bool) -> bool:
        """Complete the asynchronous checkpoint if all ranks have written their files; `wait` until they have.

        Returns:
            Whether the checkpoint is complete.
        """
        if not all(self._group.call(Actor.is_written, wait)):
            return False
        self._group.call(Actor.finish_save)
        return True

    def load(self, folder: str, optimizer: bool, rng: bool) -> None:
        """Load a checkpoint, with the optimizer's state and the random state if requested."""
        self._group.call(Actor.load, folder, optimizer, rng)
        if self._follower is not None:
            self._follower.load(folder)


class ReferenceGroup:
    """The frozen model that the policy is compared with."""

    def __init__(self, group: WorkerGroup, settings: ReferenceConfig | None = None) -> None:
        """Use the reference of a group's processes.

        Args:
            group: Its processes; the role must be built before the first call.
            settings: When the reference is updated towards the policy; by default never.
        """
        self._group = group
        self._settings = settings or ReferenceConfig()
        # Where it is updated and on processes of its own: those that send it weights.
        self._actor: WorkerGroup | None = None

    def follow(self, actor: WorkerGroup, num_senders: int) -> None:
        """Connect with the actor's processes, which are others; both roles must be built.

        Args:
            actor: The actor's processes.
            num_senders: Pipeline stages of the actor.
        """
        self._actor = actor
        address = _only_output(actor.call(Actor.host_weight_group, actor.host, REFERENCE))
        arguments = (address, num_senders, self._group.size)
        _wait_for(
            actor.start(Actor.join_weight_group, *arguments, REFERENCE),
            self._group.start(Reference.join_weight_group, *arguments),
        )

    def save(self, iteration: int) -> SavedReference:
        """Write the weights for the checkpoint of an iteration, which the actor writes next."""
        return SavedReference.joined(self._group.call(Reference.save, iteration))

    def load(self, folder: str) -> None:
        """Read the weights of the updated reference from a checkpoint, if it has any."""
        self._group.call(Reference.load, folder)

    def log_probs(self, pairs: Pairs) -> Logps:
        """Return the summed log-probability of each response under the reference: [N, K] float64, in nats."""
        return self.start_log_probs(pairs)()

    def start_log_probs(self, pairs: Pairs) -> Callable[[], Logps]:
        """Start `log_probs` without waiting; the returned function waits for the result, [N, K] float64 in nats."""
        pending = self._group.start(Reference.log_probs, _as_array(pairs))
        return lambda: join_replicas(_outputs(pending.result())).astype(np.float64)

    def start_token_log_probs(self, responses: PreferenceBatch) -> Callable[[], NDArray[np.float32]]:
        """Start to compute the log-probability of every response token, without waiting.

        Args:
            responses: Prompts with their responses, T response tokens in total.

        Returns:
            A function that waits for the [T] float32 values, in nats.
        """
        pending = self._group.start(Reference.token_log_probs, responses)
        return lambda: join_replicas(_outputs(pending.result())).astype(np.float32)

    def sync_if_due(self, num_done: int) -> bool:
        """Update the reference towards the policy if it is due after `num_done` iterations; return whether it was."""
        due = self._settings.sync_ref_model and num_done % self._settings.ref_model_sync_steps == 0
        if due:
            self._update(num_done, self._settings.ref_model_mixup_alpha)
        return due

    def _update(self, num_done: int, alpha: float) -> None:
        if self._actor is None:
            self._group.call(Reference.ema_update, alpha)
            return
        sent = self._actor.start(Actor.send_weights, num_done, REFERENCE)
        _wait_for(sent, self._group.start(Reference.receive_weights, num_done, alpha))


class RewardGroup:
    """The scorer of responses."""

    def __init__(self, group: WorkerGroup) -> None:
        """Use the reward of a group's processes, where it must be built before the first call."""
        self._group = group

    def score(self, rollouts: RolloutBatch) -> Scored:
        """Return a score for each response, and an error message for each prompt that could not be scored."""
        return self.start_score(rollouts)()

    def start_score(self, rollouts: RolloutBatch) -> Callable[[], Scored]:
        """Start `score` without waiting; the returned function waits for the result."""
        pending = self._group.start(Reward.score, rollouts)
        return lambda: Scored.concat(_outputs(pending.result()))


class RolloutGroup:
    """The policy as it generates responses, and the transfer of the actor's weights to it."""

    def __init__(self, group: WorkerGroup, actor: WorkerGroup, *, num_senders: int, validate: bool = False) -> None:
        """Connect the rollout with the actor, where they are in different processes.

        Args:
            group: The rollout's processes, with the role built.
            actor: The actor's processes, with the role built.
            num_senders: Pipeline stages of the actor.
            validate: Compare hashes of all weights after every transfer.
        """
        self._group, self._actor, self._validate = group, actor, validate
        self._is_separate = group is not actor
        if self._is_separate:
            address = _only_output(actor.call(Actor.host_weight_group, actor.host))
            arguments = (address, num_senders, group.size)
            _wait_for(
                actor.start(Actor.join_weight_group, *arguments), group.start(Rollout.join_weight_group, *arguments)
            )

    def generate(self, rows: Rows, first_sample: int) -> RolloutBatch:
        """Generate responses to the prompts of rows [N] int64; the first is sample `first_sample` of the run."""
        return self.start_generate(rows, first_sample)()

    def start_generate(self, rows: Rows, first_sample: int) -> Callable[[], RolloutBatch]:
        """Start `generate` for dataset rows [N] int64 without waiting; the returned function waits for the result."""
        pending = self._group.start(Rollout.generate, np.asarray(rows), first_sample)
        return lambda: RolloutBatch.concat(_outputs(pending.result()))

    def generate_greedy(self, rows: Rows, of_reference: bool = False) -> RolloutBatch:
        """Generate the greedy response of the policy, or of the reference, to each prompt of rows [N] int64."""
        results = self._group.call(Rollout.generate_greedy, np.asarray(rows), of_reference)
        return RolloutBatch.concat(_outputs(results))

    def update_weights(self, version: int) -> None:
        """Transfer the actor's weights as they are after `version` iterations.

        Raises:
            WeightsMismatch: The hashes of actor and rollout differ.
        """
        if self._is_separate:
            sent = self._actor.start(Actor.send_weights, version)
            _wait_for(sent, self._group.start(Rollout.receive_weights, version))
        else:
            self._group.call(Rollout.receive_weights, version)
        if self._validate:
            self._compare_hashes(version)

    def _compare_hashes(self, version: int) -> None:
        expected = _outputs(self._actor.call(Actor.weights_digest))[0]
        for received in _outputs(self._group.call(Rollout.weights_digest)):
            different = sorted(name for name in expected if received.get(name) != expected[name])
            if different:
                raise WeightsMismatch(
                    f"md5_validate: after the transfer of version {version} the rollout's {different[0]} differs from "
                    f"the actor's, and so do {len(different) - 1} more tensors"
                )


def _wait_for(*pending: PendingResults[Any]) -> None:
    """Wait for groups whose calls depend on each other."""
    for one in pending:
        one.result()


def _as_array(pairs: Pairs) -> Pairs:
    return pairs if isinstance(pairs, PreferenceBatch) else np.asarray(pairs)


def _outputs(results: Sequence[R | None]) -> list[R]:
    """Results of the output ranks, one per replica, in their order."""
    return [result for result in results if result is not None]


def _only_output(results: Sequence[R | None]) -> R:
    (result,) = _outputs(results)
    return result
