"""The interface of the rollout."""

from __future__ import annotations

from abc import ABC, abstractmethod

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.workers.role_interfaces.role import Role
from mindspeed_dpo.workers.role_values import Rows


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
