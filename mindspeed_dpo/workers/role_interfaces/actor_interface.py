"""The interface of the actor, and the receivers of its weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from mindspeed_dpo.batches import PreferenceBatch, RolloutBatch
from mindspeed_dpo.engine.checkpoints.saved_reference import SavedReference
from mindspeed_dpo.workers.role_interfaces.role import Role
from mindspeed_dpo.workers.role_values import Logps, Pairs, ReplicaValues, Rows

ROLLOUT, REFERENCE = "rollout", "ref"
"""Receivers of the actor's weights."""


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
