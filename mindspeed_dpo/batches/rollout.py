"""What a policy answered to prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mindspeed_dpo.batches.preference import PreferenceBatch, joined


@dataclass(frozen=True)
class RolloutBatch:
    """K sampled responses to each of P prompts, on the host.

    Attributes:
        answers: The P prompts and their K responses; a response keeps the stop token it ended with.
        rows: [P] int64 dataset row of each prompt; columns for the reward are looked up by it.
        ended: [P, K] bool, whether a response ended by itself with a stop token.
        logps: [P, K] float32 log-probability of each response under what sampled it, at temperature 1, in nats; None
            where it was not asked for.
        version: Of the policy that sampled: optimizer iterations it has learned from.
    """

    answers: PreferenceBatch
    rows: Tensor
    ended: Tensor
    logps: Tensor | None = None
    version: int = 0

    def __post_init__(self) -> None:
        """Check that the shapes agree.

        Raises:
            ValueError: They do not; the message names the tensor.
        """
        shape = self.answers.response_lengths.shape
        if len(self.rows) != shape[0]:
            raise ValueError(f"rows must be [{shape[0]}], one per prompt, got {list(self.rows.shape)}")
        for name in ("ended", "logps"):
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise ValueError(f"{name} must be {list(shape)}, got {list(value.shape)}")

    @property
    def num_prompts(self) -> int:
        """P."""
        return self.answers.num_prompts

    @property
    def num_responses(self) -> int:
        """K."""
        return self.answers.num_responses

    def select(self, prompts: Sequence[int]) -> RolloutBatch:
        """The rollouts of the given prompt positions, in the given order."""
        index = torch.as_tensor(prompts, dtype=torch.long)
        return RolloutBatch(
            self.answers.select(prompts),
            self.rows[index],
            self.ended[index],
            None if self.logps is None else self.logps[index],
            self.version,
        )

    @classmethod
    def concat(cls, parts: Sequence[RolloutBatch]) -> RolloutBatch:
        """The rollouts of several replicas as one batch, in their order.

        Raises:
            ValueError: Different versions of the policy sampled them.
        """
        versions = {part.version for part in parts}
        if len(versions) != 1:
            raise ValueError(f"rollouts of policy versions {sorted(versions)} cannot be one batch")
        return cls(
            PreferenceBatch.concat([part.answers for part in parts]),
            torch.cat([part.rows for part in parts]),
            torch.cat([part.ended for part in parts]),
            joined([part.logps for part in parts]),
            parts[0].version,
        )


def side_by_side(first: RolloutBatch, second: RolloutBatch) -> RolloutBatch:
    """Responses to the same prompts as one batch: those of the first, then those of the second.

    Raises:
        ValueError: The prompts differ.
    """
    one, two = first.answers, second.answers
    if not torch.equal(one.prompt_tokens, two.prompt_tokens) or not torch.equal(first.rows, second.rows):
        raise ValueError("only responses to the same prompts can stand side by side")
    responses = [
        response for rows in zip(one.responses(), two.responses(), strict=True) for row in rows for response in row
    ]
    logps = None if first.logps is None or second.logps is None else torch.cat([first.logps, second.logps], 1)
    answers = PreferenceBatch(
        prompt_tokens=one.prompt_tokens,
        prompt_lengths=one.prompt_lengths,
        response_tokens=torch.cat([one.response_tokens[:0], *responses]),
        response_lengths=torch.cat([one.response_lengths, two.response_lengths], 1),
    )
    return RolloutBatch(answers, first.rows, torch.cat([first.ended, second.ended], 1), logps, first.version)
