"""Interfaces of the roles: what the driver can call on every process of a worker group, and what the calls return.

The driver names a method by reference, such as `group.call(Actor.update, …)`, and each process calls the implementation
of its own role. This module imports no megatron, so that the driver starts without it; `workers/actor.py` and its
neighbours implement the interfaces.

A role runs on every rank of its pool and most methods are collectives: every rank must make the call. Results of a
data-parallel replica are returned by its output rank (`ParallelRank.is_output`); its other ranks return None.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from mindspeed_dpo.batches import PreferenceBatch, RolloutBatch
from mindspeed_dpo.engine.checkpoints.saved_reference import SavedReference
from mindspeed_dpo.workers.role_values import Logps, Pairs, ReplicaValues, Rows
from mindspeed_dpo.workers.scorer import Scored

ROLLOUT, REFERENCE = "rollout", "ref"
"""Receivers of the actor's weights."""


class Role:
    """A role that a worker process plays: one of the interfaces below."""

    def check_alive(self) -> None:
        """Check that what the role has started beside its process still runs.

        Raises:
            RuntimeError: It has ended.
        """


class Actor(Role, ABC):
    """The policy as it is trained; or a reward model, which has no log-probabilities and reads no reference."""

    @abstractmethod
    def log_probs(self, pairs: Pairs) -> ReplicaValues | None:
        """Compute the summed log-probability of each response under the current policy.

        Args:
            pairs: N pairs, all ranks given the same.

        Returns:
            The replica's share of [N, K] float32 or float64, in nats, from its output rank.
        """

    @abstractmethod
    def update(self, step: int, pairs: Pairs, ref_logps: Logps) -> dict[str, float] | None:
        """Train on the pairs of one iteration: one optimizer step, or several online.

        A gradient norm that is not finite ends the iteration before the weights are updated.

        Args:
            step: Iteration, counted from 0.
            pairs: N pairs of all data-parallel ranks.
            ref_logps: [N, 2] float64 log-probabilities of the reference, in nats.

        Returns:
            Metrics, averaged over the iteration's pairs, from the output rank of the first replica.
        """

    @abstractmethod
    def rollout_difference(self, responses: PreferenceBatch) -> dict[str, float] | None:
        """Compare the log-probabilities of responses with those of the rollout, which `update` does on the way.

        Args:
            responses: Prompts with their responses, with `rollout_token_logps`.

        Returns:
            The metrics of `algorithms.logp_difference`, from the output rank of the first replica.
        """

    @abstractmethod
    def evaluate(self, rows: Rows, ref_logps: Logps) -> dict[str, float] | None:
        """Compute the metrics of `update` without training.

        Args:
            rows: N dataset rows.
            ref_logps: [N, 2] float64 log-probabilities of the reference, in nats.

        Returns:
            Metrics averaged over the rows, their names with the evaluation prefix, from the output rank of the first
            replica.
        """

    @abstractmethod
    def evaluated_margins(self) -> ReplicaValues | None:
        """Return the share of the last evaluation's margins [N] float32 or float64; of a ranking their mean."""

    @abstractmethod
    def save(
        self,
        iteration: int,
        metadata: Mapping[str, Any],
        prefetched: RolloutBatch | None = None,
        reference: SavedReference | None = None,
    ) -> str:
        """Write a checkpoint, or begin to with `async_save`.

        Args:
            iteration: Iterations completed.
            metadata: JSON values for the checkpoint's metadata.
            prefetched: Rollouts already generated for the next iteration, stored with the checkpoint.
            reference: Weights of the updated reference, which its own processes have written, to be part of it.

        Returns:
            The checkpoint's folder, from every rank.
        """

    @abstractmethod
    def is_written(self, wait: bool) -> bool:
        """Return whether this rank has written its files of the asynchronous checkpoint; `wait` until it has."""

    @abstractmethod
    def finish_save(self) -> None:
        """Mark the asynchronous checkpoint complete, once `is_written` is true on every rank."""

    @abstractmethod
    def load(self, folder: str, optimizer: bool, rng: bool) -> None:
        """Load a checkpoint.

        Args:
            folder: Folder of the checkpoint.
            optimizer: Whether to load the optimizer's state.
            rng: Whether to load the random state, which fits only the layout that wrote it.
        """

    @abstractmethod
    def host_weight_group(self, host: str, receiver: str = ROLLOUT) -> str | None:
        """Open a port at which the actor and a receiver of its weights form a group for weight transfer.

        Args:
            host: Address of the node of rank 0.
            receiver: `rollout`, or `ref` for a reference that follows.

        Returns:
            `host:port` from rank 0. Each group needs a call of its own.
        """

    @abstractmethod
    def join_weight_group(self, address: str, num_senders: int, num_receivers: int, receiver: str = ROLLOUT) -> None:
        """Join the group for weight transfer; returns once all senders and receivers have joined.

        Args:
            address: What `host_weight_group` returned.
            num_senders: Pipeline stages of the actor.
            num_receivers: Processes of the receiver; their ranks in the group follow those of the senders.
            receiver: `rollout`, or `ref` for a reference that follows.
        """

    @abstractmethod
    def send_weights(self, version: int, receiver: str = ROLLOUT) -> None:
        """Send the weights to a receiver, which must call its `receive_weights` at the same time.

        Does nothing where the rollout shares the actor's processes and takes the weights itself.

        Args:
            version: Number of iterations the weights have been trained for.
            receiver: `rollout`, or `ref` for a reference that follows.

        Raises:
            WeightsError: The receiver expects something else; it raises the same, and no weight has moved.
        """

    @abstractmethod
    def weights_digest(self) -> dict[str, int] | None:
        """Return a 64-bit hash of every weight by its name, from the output rank of each replica."""


class Reference(Role, ABC):
    """The frozen model that the policy is compared with."""

    @abstractmethod
    def log_probs(self, pairs: Pairs) -> ReplicaValues | None:
        """Compute the summed log-probability of each response under the reference.

        Args:
            pairs: N pairs, all ranks given the same.

        Returns:
            The replica's share of [N, K] float32 or float64, in nats, from its output rank.
        """

    @abstractmethod
    def token_log_probs(self, responses: PreferenceBatch) -> ReplicaValues | None:
        """Compute the log-probability of every response token under the reference.

        Args:
            responses: Prompts with their responses, T response tokens in total.

        Returns:
            The replica's share of [T] float32, in nats, in the order of `response_tokens`, from its output rank.
        """

    @abstractmethod
    def ema_update(self, alpha: float) -> None:
        """Move the reference towards the policy: (1 - alpha) reference + alpha policy; alpha 1 copies the policy.

        Equation 3 of Gorbatovski et al. 2024 (TR-DPO, arXiv:2404.09656), for a reference in the actor's processes.
        """

    @abstractmethod
    def join_weight_group(self, address: str, num_senders: int, num_receivers: int) -> None:
        """Join the group for weight transfer that `Actor.join_weight_group` describes, on processes of its own."""

    @abstractmethod
    def receive_weights(self, version: int, alpha: float) -> None:
        """Do `ema_update` with the weights that the actor sends by `Actor.send_weights` at the same time.

        Args:
            version: Number of iterations the weights have been trained for.
            alpha: Weight of the policy.

        Raises:
            WeightsError: The actor sends something else; it raises the same, and no weight has changed.
        """

    @abstractmethod
    def save(self, iteration: int) -> SavedReference:
        """Write the weights of a reference on processes of its own, for the checkpoint that the actor writes next."""

    @abstractmethod
    def load(self, folder: str) -> None:
        """Read the weights of the updated reference in the checkpoint in a folder, if it has any."""


class Rollout(Role, ABC):
    """The policy as it generates responses."""

    @abstractmethod
    def join_weight_group(self, address: str, num_senders: int, num_receivers: int) -> None:
        """Join the group for weight transfer that `Actor.join_weight_group` describes.

        Raises:
            RuntimeError: The rollout shares the actor's processes and needs no group.
        """

    @abstractmethod
    def receive_weights(self, version: int) -> int:
        """Take over the actor's weights; on devices of its own while the actor calls `Actor.send_weights`.

        Args:
            version: Number of iterations the weights have been trained for.

        Returns:
            The version.

        Raises:
            RuntimeError: `join_weight_group` was not called.
            WeightsError: The actor sends something else; it raises the same, and no weight has moved.
        """

    @abstractmethod
    def generate(self, rows: Rows, first_sample: int, version: int | None = None) -> RolloutBatch | None:
        """Generate responses to prompts.

        Args:
            rows: [N] int64 dataset rows of all replicas.
            first_sample: Position of the first of them in the run's order of prompts; seeds the sampling.
            version: Policy version that must generate them; None accepts the current one.

        Returns:
            Responses to this replica's part of the rows, in order, from its output rank; None where it has no part.
            Where another model generates too, its responses come last.

        Raises:
            ValueError: The rollout holds another version, or no weights yet.
        """

    @abstractmethod
    def generate_greedy(self, rows: Rows, of_reference: bool = False) -> RolloutBatch | None:
        """Generate one response to each prompt of the most probable token at each position.

        Changes nothing that `generate` depends on.

        Args:
            rows: [N] int64 dataset rows of all replicas, of one set.
            of_reference: Generate with the reference, whose weights are read from its `load` for this call.

        Returns:
            Responses to this replica's part of the rows, in order, from its output rank; None where it has no part.

        Raises:
            ValueError: The rollout holds no weights yet.
            WeightsError: The reference's weights cannot be read.
        """

    @abstractmethod
    def weights_digest(self) -> dict[str, int] | None:
        """Return a 64-bit hash of every weight by its name, from the output rank of each replica."""


class Reward(Role, ABC):
    """The scorer of responses: a reward model, the user's functions, a judge or a judge model."""

    @abstractmethod
    def score(self, rollouts: RolloutBatch) -> Scored | None:
        """Score this replica's share of the rollouts of all replicas.

        The penalty for a missing end-of-sequence token is subtracted already: the logged scores are those that decide.

        Args:
            rollouts: P prompts with K responses each.

        Returns:
            Scores [p, K] float32 of the p prompts of this data-parallel rank, in order, from its output rank.

        Raises:
            RewardError: A prompt could not be scored and `reward_failure` is stop.
        """
