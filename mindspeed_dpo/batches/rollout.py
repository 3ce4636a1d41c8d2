"""Sampled responses of a policy to prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mindspeed_dpo.batches.preference import PreferenceBatch, concat_optional


@dataclass(frozen=True)
class RolloutBatch:
    """K sampled responses to each of P prompts, on the host.

    Attributes:
        samples: The P prompts and their K responses; a response includes the stop token that ended it.
        rows: [P] int64 dataset row of each prompt, by which the reward looks up further columns.
        ended: [P, K] bool, whether a response ended with a stop token rather than at the length limit.
        logps: [P, K] float64 log-probability of each response under the policy that sampled it, at temperature 1, in
            nats; None unless requested.
        version: Version of that policy: the number of iterations it was trained for.

    Example:
        Two responses to row 7 of the dataset, the second one truncated: `samples` holds one prompt with K = 2,
        `rows=[7]`, `ended=[[True, False]]`, `version=3`.
    """

    samples: PreferenceBatch
    rows: Tensor
    ended: Tensor
    logps: Tensor | None = None
    version: int = 0

    def __post_init__(self) -> None:
        """Check that the shapes agree.

        Raises:
            ValueError: They do not; the message names the tensor.
        """
        shape = self.samples.response_lengths.shape
        if len(self.rows) != shape[0]:
            raise ValueError(f"rows must be [{shape[0]}], one per prompt, got {list(self.rows.shape)}")
        for name in ("ended", "logps"):
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise ValueError(f"{name} must be {list(shape)}, got {list(value.shape)}")

    @property
    def num_prompts(self) -> int:
        """Number of prompts P."""
        return self.samples.num_prompts

    @property
    def num_responses(self) -> int:
        """Number of responses K to each prompt."""
        return self.samples.num_responses

    def select(self, prompts: Sequence[int]) -> RolloutBatch:
        """Select the rollouts of the given prompt positions, in the given order."""
        index = torch.as_tensor(prompts, dtype=torch.long)
        return RolloutBatch(
            self.samples.select(prompts),
            self.rows[index],
            self.ended[index],
            None if self.logps is None else self.logps[index],
            self.version,
        )

    @classmethod
    def concat(cls, parts: Sequence[RolloutBatch]) -> RolloutBatch:
        """Concatenate the rollouts of several replicas in their order.

        Raises:
            ValueError: The rollouts were sampled by different versions of the policy.
        """
        versions = {part.version for part in parts}
        if len(versions) != 1:
            raise ValueError(f"rollouts of policy versions {sorted(versions)} cannot be one batch")
        return cls(
            PreferenceBatch.concat([part.samples for part in parts]),
            torch.cat([part.rows for part in parts]),
            torch.cat([part.ended for part in parts]),
            concat_optional([part.logps for part in parts]),
            parts[0].version,
        )


def concat_responses(first: RolloutBatch, second: RolloutBatch) -> RolloutBatch:
    """Concatenate the responses of two batches to the same prompts: K = K of the first + K of the second.

    The second batch was sampled from another model, so it has no `rollout_token_logps`.

    Raises:
        ValueError: The prompts differ.
    """
    one, two = first.samples, second.samples
    if not torch.equal(one.prompt_tokens, two.prompt_tokens) or not torch.equal(first.rows, second.rows):
        raise ValueError("only responses to the same prompts can be concatenated")
    responses = [
        response for rows in zip(one.responses(), two.responses(), strict=True) for row in rows for response in row
    ]
    logps = None if first.logps is None or second.logps is None else torch.cat([first.logps, second.logps], 1)
    token_logps = None if one.rollout_token_logps is None else _interleaved(one.rollout_token_logps, one, two)
    samples = PreferenceBatch(
        prompt_tokens=one.prompt_tokens,
        prompt_lengths=one.prompt_lengths,
        response_tokens=torch.cat([one.response_tokens[:0], *responses]),
        response_lengths=torch.cat([one.response_lengths, two.response_lengths], 1),
        rollout_token_logps=token_logps,
    )
    return RolloutBatch(samples, first.rows, torch.cat([first.ended, second.ended], 1), logps, first.version)


def _interleaved(logps: Tensor, first: PreferenceBatch, second: PreferenceBatch) -> Tensor:
    """Values [tokens of the first] float32, in nats, with NaN in place of the second's, prompt after prompt."""
    own = torch.split(logps, first.response_lengths.sum(1).tolist())
    others = second.response_lengths.sum(1).tolist()
    return torch.cat([logps[:0], *(part for p, n in zip(own, others, strict=True) for part in (p, _unknown(n)))])


def _unknown(count: int) -> Tensor:
    return torch.full((count,), math.nan)
