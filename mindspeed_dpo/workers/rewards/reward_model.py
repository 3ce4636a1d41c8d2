"""A reward model as scorer: packed, run under the replica's layout, one score for each response."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from mindspeed_dpo.batches import PackedBatch, PreferenceBatch, RolloutBatch
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.data.batching.packing import pack, packed_sizes
from mindspeed_dpo.data.batching.planning import Limit, Positions, plan
from mindspeed_dpo.engine.train_engine import ScoringEngine
from mindspeed_dpo.parallel.topology import Place
from mindspeed_dpo.workers.logprobs import HELD_MICRO_BATCHES
from mindspeed_dpo.workers.rewards.hf_classifier_inputs import is_classifier
from mindspeed_dpo.workers.rewards.retokenization import Writer
from mindspeed_dpo.workers.rewards.scorer import PromptColumns, Scored, Scorer
from mindspeed_dpo.workers.rewards.tokenizers import policy_tokenizer, reward_writer
from mindspeed_dpo.workers.setup.builders import Seat, build_reward_model, limit_of, offload_from, shares_prompt


@dataclass(frozen=True)
class ModelScorer:
    """The scores of a reward model at the last token of each response.

    Attributes:
        engine: Runs the model; all processes of a replica together.
        writer: Gives rollouts the model's tokens.
        device: Where micro-batches go.
        place: Where this process stands; one of a replica answers for it.
        limit: What a micro-batch holds.
        share_prompt: Compute a prompt once for all its responses.
        multiple_of: What the rows of a micro-batch are padded to a multiple of.
        vocab_size: Token ids the model knows.
    """

    engine: ScoringEngine
    writer: Writer
    device: torch.device
    place: Place
    limit: Limit
    share_prompt: bool
    multiple_of: int
    vocab_size: int

    def score(self, rollouts: RolloutBatch) -> Scored | None:
        """See `protocol.Scorer`."""
        written = self.writer.write(rollouts)
        planned, found = self._run(written.batch) if written.batch is not None else ([], [])
        if not self.place.is_output:
            return None
        scores = np.full((rollouts.num_prompts, rollouts.num_responses), np.nan, np.float32)
        if found:
            places = np.asarray(written.positions)[np.concatenate(planned)]
            scores[places] = torch.cat(found).cpu().numpy()
        return Scored(scores, written.failures)

    def _run(self, batch: PreferenceBatch) -> tuple[list[Positions], list[Tensor]]:
        """The prompts of each micro-batch, and their scores [p, K]; no scores off the last stage."""
        self._check_tokens(batch)
        rows, _ = packed_sizes(batch.lengths().numpy(), share_prompt=self.share_prompt)
        planned = plan(rows, rows, self.limit)
        found, packed = [], self._micro_batches(batch, planned)
        with self.engine.at_work():
            while held := list(islice(packed, HELD_MICRO_BATCHES)):
                found += self.engine.score(held)
        return planned, found

    def _micro_batches(self, batch: PreferenceBatch, planned: Sequence[Positions]) -> Iterator[PackedBatch]:
        for part in planned:
            packed = pack(batch.select(part.tolist()), share_prompt=self.share_prompt, multiple_of=self.multiple_of)
            yield packed.divided(self.place.cp_rank, self.place.topology.cp).to(self.device)

    def _check_tokens(self, batch: PreferenceBatch) -> None:
        highest = int(max(batch.prompt_tokens.max(), batch.response_tokens.max()))
        if highest >= self.vocab_size:
            raise ValueError(
                f"the rollouts hold token {highest}, but the reward model has vocab_size={self.vocab_size}: it has "
                "another tokenizer than the policy; name it in reward_tokenizer"
            )


def model_scorer(seat: Seat, role: RoleConfig, prompts: PromptColumns) -> Scorer:
    """The scorer of the model that section `reward` loads: one of ours, or a classifier of any other kind.

    Args:
        seat: Where this process sits.
        role: Settings of the reward.
        prompts: The prompts that rollouts answer, for their messages.
    """
    if is_classifier(role):
        # Only here: it brings all models of transformers, whose import costs every other process seconds of its start.
        classifier = importlib.import_module("mindspeed_dpo.workers.rewards.hf_classifier")
        scorer: Scorer = classifier.classifier_scorer(role, seat, policy_tokenizer(seat.run), prompts)
        return scorer
    return ModelScorer(
        engine=ScoringEngine(build_reward_model(seat, role), offload_from=offload_from(seat, role)),
        writer=reward_writer(seat.run, role, prompts),
        device=seat.device,
        place=seat.place,
        limit=limit_of(role),
        share_prompt=shares_prompt(seat, role),
        multiple_of=role.row_multiple,
        vocab_size=role.model.vocab_size,
    )
