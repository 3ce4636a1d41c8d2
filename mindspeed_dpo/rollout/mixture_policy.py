"""Next tokens of two models at once: the geometric mixture that Nash-MD plays against.

Both models read the same tokens, each into a cache of its own; only their logits meet. What generates asks a model for
no more than `TokenModel`, so it does not know whether one or two answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.parallel.tensor_group import TensorGroup
from mindspeed_dpo.rollout.decoder import RolloutModel


class TokenModel(Protocol):
    """What answers prompts, token by token; caches, tiles and prefixes are its own affair.

    Attributes:
        model: The architecture; of a mixture the policy's.
        tp: The tensor ranks, on which logits are equal.
    """

    model: ModelConfig
    tp: TensorGroup

    @property
    def device(self) -> torch.device:
        """Where logits are."""

    @property
    def arranged(self) -> Callable[[int], AbstractContextManager[None]]:
        """See `RolloutModel.arranged`."""

    @property
    def new_cache(self) -> Callable[[int, int, int], Any]:
        """See `RolloutModel.new_cache`."""

    @property
    def prefill(self) -> Callable[[Tensor], tuple[Any, Tensor]]:
        """See `RolloutModel.prefill`."""

    @property
    def decode(self) -> Callable[..., Tensor]:
        """See `RolloutModel.decode`."""


@dataclass(frozen=True)
class MixedTile:
    """The same slots in the caches of both models."""

    parts: tuple[Any, Any]

    @property
    def rows(self) -> int:
        """Slots of the tile."""
        return int(self.parts[0].rows)


class MixedCache:
    """A cache for each model, alike in slots.

    Attributes:
        tiles: See `KvCache.tiles`.
    """

    def __init__(self, first: Any, second: Any) -> None:
        self._caches = (first, second)
        self.tiles = [MixedTile(parts) for parts in zip(first.tiles, second.tiles, strict=True)]

    def write(self, slot: int, prefix: tuple[Any, Any], *further: Any) -> None:
        """See `KvCache.write`."""
        for cache, part in zip(self._caches, prefix, strict=True):
            cache.write(slot, part, *further)

    def move(self, source: int, target: int, length: int) -> None:
        """See `KvCache.move`."""
        for cache in self._caches:
            cache.move(source, target, length)


class MixedModel:
    """Policy and reference mixed token by token: share times the reference's logits, the rest of the policy's.

    Up to a constant these are the logarithms of policy^(1 - share) x reference^share, the geometric mixture of Munos et
    al. 2023 (arXiv:2312.00886).
    """

    def __init__(self, policy: RolloutModel, reference: RolloutModel, share: float) -> None:
        """Take hold of both.

        Args:
            policy: Answers with 1 - share.
            reference: Answers with share, over the same tensor ranks.
            share: In [0, 1]; at either end the samples are those of one of the two.

        Raises:
            ValueError: Their vocabularies differ.
        """
        if policy.model.vocab_size != reference.model.vocab_size:
            raise ValueError(
                f"a policy of {policy.model.vocab_size} tokens and a reference of {reference.model.vocab_size} cannot "
                "be mixed; their tokenizers must be one"
            )
        self.model, self.tp = policy.model, policy.tp
        self._models, self._share = (policy, reference), share

    @property
    def device(self) -> torch.device:
        """Where the policy's weights are."""
        return self._models[0].device

    @contextmanager
    def arranged(self, rows: int) -> Iterator[None]:
        """See `RolloutModel.arranged`; of both."""
        policy, reference = self._models
        with policy.arranged(rows), reference.arranged(rows):
            yield

    def new_cache(self, slots: int, capacity: int, rows: int) -> MixedCache:
        """See `RolloutModel.new_cache`."""
        policy, reference = self._models
        return MixedCache(policy.new_cache(slots, capacity, rows), reference.new_cache(slots, capacity, rows))

    @torch.inference_mode()
    def prefill(self, prompt: Tensor) -> tuple[tuple[Any, Any], Tensor]:
        """See `RolloutModel.prefill`."""
        (policy, ours), (reference, theirs) = (model.prefill(prompt) for model in self._models)
        return (policy, reference), self._mixed(ours, theirs)

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], positions: Sequence[int], tile: MixedTile, *further: Any) -> Tensor:
        """See `RolloutModel.decode`; what else that takes is handed to both."""
        parts = zip(self._models, tile.parts, strict=True)
        return self._mixed(*(model.decode(tokens, positions, part, *further) for model, part in parts))

    def _mixed(self, policy: Tensor, reference: Tensor) -> Tensor:
        return reference.mul(self._share).add_(policy, alpha=1 - self._share)
