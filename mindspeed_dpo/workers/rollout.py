"""The rollout: the policy as it generates responses, on one process."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.config.settings.pair_selection import NASH_MD
from mindspeed_dpo.data.batching.data_parallel_split import shard
from mindspeed_dpo.data.datasets.train_eval import TrainEvalPrompts
from mindspeed_dpo.parallel.topology import ParallelRank
from mindspeed_dpo.rollout.decoder import RolloutModel
from mindspeed_dpo.rollout.generator import Generator
from mindspeed_dpo.rollout.mixture_policy import MixedModel, TokenModel
from mindspeed_dpo.rollout.paired_generation import PairedGenerator
from mindspeed_dpo.weights.resharding import Shards, digests
from mindspeed_dpo.workers.actor import ActorWorker
from mindspeed_dpo.workers.role_interfaces.rollout_interface import Rollout
from mindspeed_dpo.workers.role_values import Rows
from mindspeed_dpo.workers.setup.stop_tokens import stop_ids
from mindspeed_dpo.workers.setup.worker_context import WorkerContext
from mindspeed_dpo.workers.weight_sync.held_version import current_version
from mindspeed_dpo.workers.weight_sync.receiver import placement, reference_weights, rollout_weights


class RolloutWorker(Rollout):
    """One process of the rollout: a tensor-parallel rank of one replica."""

    def __init__(
        self, context: WorkerContext, role: RoleConfig, dataset: TrainEvalPrompts, actor: ActorWorker | None = None
    ) -> None:
        """Load the weights and build the generator; a collective.

        Args:
            context: Context of this process.
            role: Settings of the rollout.
            dataset: Prompts by row.
            actor: The actor in this process, if there is one.
        """
        self.role = role
        self.dataset = dataset
        self._context = context
        self.weights = rollout_weights(context, role, actor)
        self.version: int | None = 0 if self.weights.is_filled else None
        self._policy = RolloutModel(role.model, self.weights.tensors, self.weights.tp, self.weights.experts)
        self.generator = build_generator(context, role, self._policy, self.weights.place)

    @override
    def join_weight_group(self, address: str, num_senders: int, num_receivers: int) -> None:
        self.weights.join_group(address, num_senders, num_receivers)

    @override
    def receive_weights(self, version: int) -> int:
        self.weights.receive(version)
        self.version = version
        return version

    @override
    def generate(self, rows: Rows, first_sample: int, version: int | None = None) -> RolloutBatch | None:
        current = current_version(self.version, version)
        own = shard(len(rows), self.weights.place.dp_rank, self.weights.place.topology.dp)
        with self.weights.gathered():
            parts = [
                self._generate(self.generator, rows, part, first_sample, current)
                for part in self._parts(own, len(rows))
            ]
        return RolloutBatch.concat(parts) if self.weights.place.is_output and own else None

    @override
    def generate_greedy(self, rows: Rows, of_reference: bool = False) -> RolloutBatch | None:
        current = current_version(self.version, None)
        topology = self.weights.place.topology
        own = shard(len(rows), self.weights.place.dp_rank, topology.dp)
        # The cache is sized for the prompts of an iteration.
        at_once = -(-self.role.batch.global_batch_size // topology.dp)
        with self.weights.gathered():
            generator = self._greedy_generator(of_reference)
            parts = [self._generate(generator, rows, part, 0, current) for part in self._parts(own, len(rows), at_once)]
        return RolloutBatch.concat(parts) if self.weights.place.is_output and own else None

    @override
    def weights_digest(self) -> dict[str, int] | None:
        place = self.weights.place
        with self.weights.gathered():
            shards = Shards(self.role.model, self.weights.tensors, placement(self.role, place))
            hashes = digests(shards, self.weights.tp.group, self.weights.experts.group)
        return hashes if place.is_output else None

    def _parts(self, own: range, total: int, at_once: int | None = None) -> list[range]:
        """Split this replica's positions into calls of at most `num_samples_per_step` and `at_once` prompts.

        Replicas that share experts make the same number of calls, the last ones perhaps without prompts.
        """
        topology = self.weights.place.topology
        most = -(-total // topology.dp) if topology.replicas_share_experts else len(own)
        size = min(self.role.rollout.num_samples_per_step or most, at_once or most)
        return [own[start : start + size] for start in range(0, most, size)] if most else []

    def _greedy_generator(self, of_reference: bool) -> Generator:
        """Return a generator of the most probable tokens of the policy, or of the reference, whose weights it reads."""
        model, role = self._policy, self.role
        if of_reference:
            model = _reference_model(self._context, self._policy, self.weights.place)
        stops, seed = stop_ids(role), self._context.run.loop.seed
        return Generator(model, role.rollout.greedy, max_new_tokens=role.max_new_tokens, stop_ids=stops, seed=seed)

    def _generate(
        self, generator: Generator | PairedGenerator, rows: Rows, part: range, first_sample: int, version: int
    ) -> RolloutBatch:
        chosen = [int(rows[position]) for position in part]
        prompts: list[Tensor] = [torch.tensor(prompt) for prompt in self.dataset.prompts(chosen)]
        return generator.rollout(prompts, chosen, [first_sample + position for position in part], version)


def build_generator(
    context: WorkerContext, role: RoleConfig, policy: RolloutModel, place: ParallelRank
) -> Generator | PairedGenerator:
    """Build what generates responses: the policy alone, or the policy and, for XPO and Nash-MD, a second model.

    Args:
        context: Context of this process.
        role: Settings of the rollout.
        policy: Decodes with the actor's weights.
        place: Ranks of this process in the rollout's layout.
    """
    settings, length, stops, seed = role.rollout, role.max_new_tokens, stop_ids(role), context.run.loop.seed
    if not role.pairing.samples_from_reference:
        return Generator(policy, settings, max_new_tokens=length, stop_ids=stops, seed=seed)
    second = _second_model(context, role, policy, place)
    return PairedGenerator.between(policy, second, settings, max_new_tokens=length, stop_ids=stops, seed=seed)


def _second_model(context: WorkerContext, role: RoleConfig, policy: RolloutModel, place: ParallelRank) -> TokenModel:
    """Return the reference, or for Nash-MD its mixture with the policy; loads the reference's weights."""
    reference = _reference_model(context, policy, place)
    if role.pairing.online_method == NASH_MD:
        return MixedModel(policy, reference, role.pairing.nash_md_mixture)
    return reference


def _reference_model(context: WorkerContext, policy: RolloutModel, place: ParallelRank) -> RolloutModel:
    """Load the reference's weights for decoding under the layout of the policy."""
    ref = context.run.ref
    assert ref is not None, "an online run has a reference"
    return RolloutModel(ref.model, reference_weights(ref, place, context.device), policy.tp, policy.experts)
