"""Scores by a reward model: packed micro-batches under the replica's layout, one score per response."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from mindspeed_dpo.batches import PackedBatch, PreferenceBatch, RolloutBatch
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.data.batching.data_parallel_split import Positions
from mindspeed_dpo.data.batching.micro_batch_plan import MicroBatchLimit, plan
from mindspeed_dpo.data.batching.packing_and_label_shift import pack, packed_sizes
from mindspeed_dpo.engine.train_engine import ScoringEngine
from mindspeed_dpo.parallel.topology import ParallelRank
from mindspeed_dpo.workers.logprobs import HELD_MICRO_BATCHES
from mindspeed_dpo.workers.rewards.hf_classifier_inputs import is_classifier
from mindspeed_dpo.workers.rewards.retokenization import ConvertedRollouts, TokenConverter
from mindspeed_dpo.workers.rewards.reward_tokenizer import policy_tokenizer, token_converter
from mindspeed_dpo.workers.scorer import PromptColumns, Scored, Scorer
from mindspeed_dpo.workers.setup.model_builder import build_reward_model, limit_of, offload_from, shares_prompt
from mindspeed_dpo.workers.setup.worker_context import WorkerContext


@dataclass(frozen=True)
class ModelScorer:
    """Scores responses by a reward model, at the last token of each response.

    Attributes:
        engine: Runs the model, on all processes of a replica together.
        converter: Converts rollouts to the model's tokens.
        device: Device of the micro-batches.
        place: Ranks of this process; the output rank returns the scores.
        limit: Most prompts or rows of a micro-batch.
        share_prompt: Compute a prompt once for all its responses.
        multiple_of: The rows of a micro-batch are padded to a multiple of this.
        vocab_size: Vocabulary size of the model.
        needs_all_replicas: Whether replicas share experts, so that all of them score equally many micro-batches.
    """

    engine: ScoringEngine
    converter: TokenConverter
    device: torch.device
    place: ParallelRank
    limit: MicroBatchLimit
    share_prompt: bool
    multiple_of: int
    vocab_size: int
    needs_all_replicas: bool = False

    def score(self, rollouts: RolloutBatch) -> Scored | None:
        """Score the prompts that can be converted to the model's tokens; the others are failures."""
        has_prompts = rollouts.num_prompts > 0
        converted = self.converter.convert(rollouts) if has_prompts else ConvertedRollouts(None, [])
        planned, values = self._run(converted.batch)
        if not self.place.is_output:
            return None
        scores = np.full((rollouts.num_prompts, rollouts.num_responses), np.nan, np.float32)
        if values:
            positions = np.asarray(converted.positions)[np.concatenate(planned)]
            scores[positions] = torch.cat(values).cpu().numpy()
        return Scored(scores, converted.failures)

    def _run(self, batch: PreferenceBatch | None) -> tuple[list[Positions], list[Tensor]]:
        """Return the prompts of each micro-batch and their scores [p, K]; no scores on all but the last stage."""
        parts: list[PreferenceBatch] = []
        planned: list[Positions] = []
        if batch is not None:
            self._check_tokens(batch)
            rows, _ = packed_sizes(batch.lengths().numpy(), share_prompt=self.share_prompt)
            planned = plan(rows, rows, self.limit)
            parts = [batch.select(part.tolist()) for part in planned]
        values, packed = [], self._micro_batches([*parts, *self._padding(len(planned))])
        with self.engine.on_device():
            while held := list(islice(packed, HELD_MICRO_BATCHES)):
                values += self.engine.score(held)
        return planned, values[: len(planned)]

    def _padding(self, num_planned: int) -> list[PreferenceBatch]:
        """Return micro-batches whose scores are not used, up to the number of the replica that has most.

        How many a replica has depends on what could be converted, so the replicas ask each other.
        """
        if not self.needs_all_replicas:
            return []
        most = torch.tensor([num_planned], dtype=torch.int32, device=self.device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return [PreferenceBatch.from_lists([[0]], [([0], [0])])] * (int(most) - num_planned)

    def _micro_batches(self, parts: Sequence[PreferenceBatch]) -> Iterator[PackedBatch]:
        for part in parts:
            packed = pack(part, share_prompt=self.share_prompt, multiple_of=self.multiple_of)
            yield packed.for_context_rank(self.place.cp_rank, self.place.topology.cp).to(self.device)

    def _check_tokens(self, batch: PreferenceBatch) -> None:
        lowest, highest = batch.token_range()
        if lowest < 0 or highest >= self.vocab_size:
            token = lowest if lowest < 0 else highest
            raise ValueError(
                f"the rollouts contain token {token}, but the reward model has vocab_size={self.vocab_size}: its "
                "tokenizer differs from the policy's; set reward_tokenizer"
            )


def build_model_scorer(context: WorkerContext, role: RoleConfig, prompts: PromptColumns) -> Scorer:
    """Build the scorer of the model that section `reward` loads: a supported family, or any Hugging Face classifier.

    Args:
        context: Context of this process.
        role: Settings of the reward.
        prompts: The prompts of the rollouts, for their messages.
    """
    if is_classifier(role):
        # Deferred: this imports the models of transformers, which would delay the start of all other runs by seconds.
        from mindspeed_dpo.workers.rewards.hf_classifier import classifier_scorer

        return classifier_scorer(role, context, policy_tokenizer(context.run), prompts)
    return ModelScorer(
        engine=ScoringEngine(build_reward_model(context, role), offload_from=offload_from(context, role)),
        converter=token_converter(context.run, role, prompts),
        device=context.device,
        place=context.place,
        limit=limit_of(role),
        share_prompt=shares_prompt(context, role),
        multiple_of=role.row_multiple,
        vocab_size=role.model.vocab_size,
        needs_all_replicas=context.place_of(role).topology.replicas_share_experts,
    )
