"""Arguments and results of calls of roles: rows, pairs, log-probabilities. This module imports no megatron."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.batches import PreferenceBatch

Rows = Sequence[int] | NDArray[np.int64]
"""Row numbers of the dataset, [N]."""
Logps = NDArray[np.float64]
"""Summed response log-probabilities, [N, K] float64, in nats."""
Pairs = Rows | PreferenceBatch
"""Preference pairs, by dataset row or as a batch."""


@dataclass(frozen=True)
class ReplicaValues:
    """The values that one replica computed for its share of a request.

    Example: of three pairs a replica computed the first and the last.

        ReplicaValues(positions=array([0, 2]), values=array([[-20.0, -31.0], [-8.5, -9.0]]))

    Attributes:
        positions: [n] int64, position of each value in the request.
        values: [n, ...] in nats: float32 for tokens, float32 or float64 for sums, as the device forms them.
    """

    positions: NDArray[np.int64]
    values: NDArray[np.floating]


def join_replicas(shares: Sequence[ReplicaValues]) -> NDArray[np.floating]:
    """Values of all replicas in the order of the request, [N, ...] float32 or float64, in nats."""
    order = np.argsort(np.concatenate([share.positions for share in shares]))
    return np.concatenate([share.values for share in shares])[order]
