"""Transfer of weights from the actor to the rollout under any two layouts: checks, buckets, broadcasts, digests.

Which processes take part, and when, is left to `workers.weight_sync`.
"""

from __future__ import annotations

from mindspeed_dpo.weights.resharding.shards import Region, Shards, empty_tensors
from mindspeed_dpo.weights.resharding.tensor_digests import digests, tensor_digest
from mindspeed_dpo.weights.resharding.transfer import Sender, transfer

__all__ = ["Region", "Sender", "Shards", "digests", "empty_tensors", "tensor_digest", "transfer"]
