"""The interface of the reference."""

from __future__ import annotations

from abc import ABC, abstractmethod

from mindspeed_dpo.batches import PreferenceBatch
from mindspeed_dpo.engine.checkpoints.saved_reference import SavedReference
from mindspeed_dpo.workers.role_interfaces.role import Role
from mindspeed_dpo.workers.role_values import Pairs, ReplicaValues


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
