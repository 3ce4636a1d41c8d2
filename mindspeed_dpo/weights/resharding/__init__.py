"""Weights on their way from the training processes to the rollout: described, agreed on, carried in buckets."""

from __future__ import annotations

from mindspeed_dpo.weights.resharding.digest import digests, first_difference
from mindspeed_dpo.weights.resharding.shards import Shards, empty_tensors
from mindspeed_dpo.weights.resharding.transfer import Sender, transfer

__all__ = ["Sender", "Shards", "digests", "empty_tensors", "first_difference", "transfer"]
