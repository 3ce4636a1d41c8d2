"""The geometric mixture of policy and reference that Nash-MD samples from.

Both models read the same tokens into their own caches; their logits are mixed. `TokenModel` is the interface that the
decode loop uses for a single model as well as for a mixture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.parallel.tensor_parallel import TensorGroup
from mindspeed_dpo.rollout.decoder import RolloutModel


class TokenModel(Protocol):
    """A model that generates token by token; caches, tiles and prefixes are opaque to its user.

    Attributes:
        model: The architecture; for a mixture that of the policy.
        tp: The tensor-parallel group; logits are equal on its ranks.
        shares_experts: As `RolloutModel.shares_experts`.
    """

    model: ModelConfig
    tp: TensorGroup
    shares_experts: bool

    @property
    def device(self) -> torch.device:
        """Device of the logits."""

    @property
    def skips_empty_rows(self) -> bool:
        """Whether a decoding pass may leave out rows, as `RolloutModel.skips_empty_rows`."""

    @property
    def packed_weights(self) -> Callable[[int], AbstractContextManager[None]]:
        """Prepare the weights for passes of up to so many rows, as `RolloutModel.packed_weights`."""

    @property
    def new_cache(self) -> Callable[[int, int, int], Any]:
        """Allocate a cache, as `RolloutModel.new_cache`."""

    @property
    def join_pass(self) -> Callable[[], bool]:
        """Make a pass without tokens if another replica makes one, as `RolloutModel.join_pass`."""

    @property
    def prefill(self) -> Callable[[Tensor], tuple[Any, Tensor]]:
        """Read a prompt, [T] integer token ids, and return its prefix and the logits [1, V] float32 after it."""

    @property
    def decode(self) -> Callable[..., Tensor]:
        """Append one token to rows of a tile and return their logits [R, V] float32, as `RolloutModel.decode`."""


@dataclass(frozen=True)
class MixedTile:
    """The tile of the same slots in the caches of both models."""

    parts: tuple[Any, Any]

    @property
    def rows(self) -> int:
        """Number of slots of the tile."""
        return int(self.parts[0].rows)


class MixedCache:
    """Caches of both models with the same slots.

    Attributes:
        tiles: Pairs of tiles.
    """

    def __init__(self, first: Any, second: Any) -> None:
        self._caches = (first, second)
        self.tiles = [MixedTile(parts) for parts in zip(first.tiles, second.tiles, strict=True)]

    def write(self, slot: int, prefix: tuple[Any, Any], *extra: Any) -> None:
        """Copy the prefixes of both models into a slot."""
        for cache, part in zip(self._caches, prefix, strict=True):
            cache.write(slot, part, *extra)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of a slot to another in both caches."""
        for cache in self._caches:
            cache.move(source, target, length)


class MixedModel:
    """Mixture of policy and reference with logits (1 - share) policy + share reference.

    Up to a constant these are the logarithms of policy^(1 - share) reference^share, the geometric mixture of Munos et
    al. 2023 (arXiv:2312.00886).
    """

    def __init__(self, policy: RolloutModel, reference: RolloutModel, share: float) -> None:
        """Combine two models.

        Args:
            policy: The model with weight 1 - share.
            reference: The model with weight share, on the same tensor-parallel ranks.
            share: Weight in [0, 1]; at 0 and 1 the samples are those of a single model.

        Raises:
            ValueError: The vocabularies differ.
        """
        if policy.model.vocab_size != reference.model.vocab_size:
            raise ValueError(
                f"a policy of {policy.model.vocab_size} tokens and a reference of {reference.model.vocab_size} cannot "
                "be mixed; they must use the same tokenizer"
            )
        self.model, self.tp = policy.model, policy.tp
        self.shares_experts = policy.shares_experts or reference.shares_experts
        self._models, self._share = (policy, reference), share

    @property
    def device(self) -> torch.device:
        """Device of the policy's weights."""
        return self._models[0].device

    @property
    def skips_empty_rows(self) -> bool:
        """Whether both models may leave out rows."""
        return all(model.skips_empty_rows for model in self._models)

    @contextmanager
    def packed_weights(self, rows: int) -> Iterator[None]:
        """Prepare the weights of both models for passes of up to `rows` rows."""
        policy, reference = self._models
        with policy.packed_weights(rows), reference.packed_weights(rows):
            yield

    def new_cache(self, slots: int, capacity: int, rows: int) -> MixedCache:
        """Allocate the caches of both models."""
        policy, reference = self._models
        return MixedCache(policy.new_cache(slots, capacity, rows), reference.new_cache(slots, capacity, rows))

    def join_pass(self) -> bool:
        """Make a pass of both models without tokens if another replica makes one."""
        joined = [model.join_pass() for model in self._models]
        return any(joined)

    @torch.inference_mode()
    def prefill(self, prompt: Tensor) -> tuple[tuple[Any, Any], Tensor]:
        """Read a prompt, [T] integer token ids; returns both prefixes and the mixed logits [1, V] float32."""
        (policy, ours), (reference, theirs) = (model.prefill(prompt) for model in self._models)
        return (policy, reference), self._mixed(ours, theirs)

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], positions: Sequence[int], tile: MixedTile, *extra: Any) -> Tensor:
        """Append one token per row; returns the mixed logits [R, V] float32. Further arguments go to both models."""
        parts = zip(self._models, tile.parts, strict=True)
        return self._mixed(*(model.decode(tokens, positions, part, *extra) for model, part in parts))

    def _mixed(self, policy: Tensor, reference: Tensor) -> Tensor:
        return reference.mul(self._share).add_(policy, alpha=1 - self._share)
