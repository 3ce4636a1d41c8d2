"""Running sums of a step: every metric is a sum and a weight, so that any split of the step gives the same mean.

Sums stay on their device as tensors; the host reads them once, in `means`. Combining ranks is left to the caller,
who all-reduces (SUM) the one vector of `vector` and rebuilds the sums with `from_vector`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mindspeed_dpo.observability.names import metric


class MetricSums:
    """Named pairs of (sum, weight), both scalar float32 tensors.

    The weight counts what the mean is over: pairs, tokens, micro-batches.

    Example:
        sums = MetricSums()
        for losses in micro_batches:                       # losses [P]
            sums.add("loss", losses.sum(), len(losses))
        vector = sums.vector()                             # [2n]; all-reduce this over the ranks that hold pairs
        MetricSums.from_vector(sums.names, vector).means()
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}  # name -> [2] float32: sum, weight

    def add(self, name: str, total: Tensor, weight: Tensor | float) -> None:
        """Add a sum and its weight, without waiting for the device.

        Args:
            name: A name of the table in `names.py`.
            total: Scalar, the sum over the weighted items. Its graph is not kept.
            weight: Scalar, how many items (pairs, tokens) the sum is over.

        Raises:
            ValueError: The name is not in the table, or a value is not a scalar.
        """
        metric(name)
        entry = torch.stack([_scalar(name, total), _scalar(name, torch.as_tensor(weight, device=total.device))])
        self._sums[name] = self._sums[name] + entry if name in self._sums else entry

    def merge(self, other: MetricSums) -> None:
        """Add all sums of another collection to this one."""
        for name, entry in other._sums.items():
            self._sums[name] = self._sums[name] + entry if name in self._sums else entry

    @property
    def names(self) -> tuple[str, ...]:
        """Names held, in the order of `vector`: sorted, hence equal on all ranks that hold the same names."""
        return tuple(sorted(self._sums))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self._sums)

    def vector(self, names: Sequence[str] | None = None, device: torch.device | str | None = None) -> Tensor:
        """All sums, then all weights: [2n] float32.

        Args:
            names: The n names in the wanted order; by default those held. A rank without pairs (an earlier pipeline
                stage) passes the names of the ranks that have some: what it does not hold is zero.
            device: Where the vector is to lie; by default where the sums lie.

        Raises:
            ValueError: A held name is missing from `names`, so its sum would be lost.
        """
        order = self.names if names is None else tuple(names)
        if lost := sorted(set(self._sums) - set(order)):
            raise ValueError(f"metrics {lost} are held but not among the names asked for: {list(order)}")
        if not order:
            return torch.zeros(0, dtype=torch.float32, device=device)
        if device is None and self._sums:
            device = next(iter(self._sums.values())).device
        empty = torch.zeros(2, dtype=torch.float32, device=device)
        return torch.stack(
            [self._sums[name].to(device) if name in self._sums else empty for name in order], 1
        ).flatten()

    @classmethod
    def from_vector(cls, names: Sequence[str], vector: Tensor) -> MetricSums:
        """The inverse of `vector`.

        Raises:
            ValueError: The vector is not [2n] for n names.
        """
        if vector.shape != (2 * len(names),):
            raise ValueError(f"vector must be [{2 * len(names)}] for {len(names)} metrics, got {list(vector.shape)}")
        sums = cls()
        sums._sums = dict(zip(names, vector.reshape(2, -1).unbind(1), strict=True))
        return sums

    def means(self, prefix: str = "") -> dict[str, float]:
        """Mean of every metric, read from the device in one transfer; names of weight 0 are left out.

        Args:
            prefix: Put before every name, e.g. "eval/".
        """
        values = self.vector().tolist()
        pairs = zip(self.names, values[: len(self)], values[len(self) :], strict=True)
        return {prefix + name: total / weight for name, total, weight in pairs if weight != 0}


def _scalar(name: str, value: Tensor) -> Tensor:
    if value.numel() != 1:
        raise ValueError(f"metric {name!r} needs a scalar sum and a scalar weight, got shape {list(value.shape)}")
    return value.detach().reshape(()).to(torch.float32)
