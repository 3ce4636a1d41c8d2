"""The policy as it answers prompts: one process of it."""

from __future__ import annotations

import torch
from torch import Tensor

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.data.datasets.dataset import PromptDataset
from mindspeed_dpo.parallel.topology import shard
from mindspeed_dpo.rollout.decoder import RolloutModel
from mindspeed_dpo.weights.resharding import Shards, digests
from mindspeed_dpo.workers.actor import ActorWorker
from mindspeed_dpo.workers.interfaces import Rows
from mindspeed_dpo.workers.rollout_generator import answering
from mindspeed_dpo.workers.setup.builders import Seat
from mindspeed_dpo.workers.weight_sync.receiver import placement, rollout_weights


class RolloutWorker:
    """One process of the rollout: a tensor-parallel rank of one replica."""

    def __init__(self, seat: Seat, role: RoleConfig, dataset: PromptDataset, actor: ActorWorker | None = None) -> None:
        """Get the weights and make ready to generate; a collective.

        Args:
            seat: Of this process.
            role: The rollout's settings.
            dataset: Prompts by row.
            actor: The actor, where it lives in this process.
        """
        self.role = role
        self.dataset = dataset
        self.weights = rollout_weights(seat, role, actor)
        self.version: int | None = 0 if self.weights.is_filled else None
        policy = RolloutModel(role.model, self.weights.tensors, self.weights.tp)
        self.generator = answering(seat, role, policy, self.weights.place)

    def open_link(self, address: str, publishers: int, receivers: int) -> None:
        """Join the link that the weights come over; see `Publishing.open_link`."""
        self.weights.open_link(address, publishers, receivers)

    def receive(self, version: int) -> int:
        """Have the actor's weights of `version`, and return it; on own devices the actor must `publish` meanwhile."""
        self.weights.receive(version)
        self.version = version
        return version

    def generate(self, rows: Rows, first_sample: int, version: int | None = None) -> RolloutBatch | None:
        """Answer prompts.

        Args:
            rows: [N] dataset rows of all replicas.
            first_sample: Place of the first of them in the run's order of prompts.
            version: Of the policy that should answer; None takes the one that is there.

        Returns:
            Answers to this replica's part of the rows, in order, from the one process that speaks for it; None from
            the others, and where there is no part for it. Where another model answers too, its responses come last.

        Raises:
            ValueError: Another version is there, or none.
        """
        held = self._held(version)
        mine = shard(len(rows), self.weights.place.dp_rank, self.weights.place.topology.dp)
        with self.weights.whole():
            parts = [self._answer(rows, part, first_sample, held) for part in self._calls(mine)]
        speaks = self.weights.place.is_output and parts
        return RolloutBatch.concat(parts) if speaks else None

    def weights_digest(self) -> dict[str, int] | None:
        """See `transit.digests`; from the one process that speaks for each replica, None from the others."""
        place = self.weights.place
        with self.weights.whole():
            shards = Shards(self.role.model, self.weights.tensors, placement(self.role, place))
            found = digests(shards, self.weights.tp.group)
        return found if place.is_output else None

    def _held(self, version: int | None) -> int:
        if self.version is None:
            raise ValueError("the rollout has no weights yet; the actor must publish before the first prompt")
        if version is not None and version != self.version:
            raise ValueError(f"policy version {version} should answer, but the rollout holds version {self.version}")
        return self.version

    def _calls(self, mine: range) -> list[range]:
        """This replica's positions, as many at once as `num_samples_per_step` says."""
        size = self.role.rollout.num_samples_per_step or len(mine)
        return [mine[start : start + size] for start in range(0, len(mine), size)] if mine else []

    def _answer(self, rows: Rows, part: range, first_sample: int, version: int) -> RolloutBatch:
        chosen = [int(rows[position]) for position in part]
        prompts: list[Tensor] = [torch.tensor(prompt) for prompt in self.dataset.prompts(chosen)]
        return self.generator.rollout(prompts, chosen, [first_sample + position for position in part], version)
