"""Metric sums of a step: every metric is a sum and a weight, so that any split of the step gives the same mean.

Sums remain tensors on their device; the host reads them once, in `means`. Combining ranks is left to the caller, who
sums `vector` over them and rebuilds the sums with `from_vector`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce

import torch
from torch import Tensor

from mindspeed_dpo.observability.metric_names import metric


class PairwiseSum:
    """A streaming pairwise sum of tensors.

    Its error grows with the logarithm of the number n of tensors, in any dtype. It stores at most log2(n) + 1 partial
    sums, of 1, 2, 4, ... tensors, and needs as many additions as a running sum.
    """

    def __init__(self, first: Tensor) -> None:
        """Start with one tensor of any shape, any floating dtype and any unit."""
        self._partial: list[Tensor | None] = [first]

    def add(self, value: Tensor) -> None:
        """Add a tensor with the same shape, dtype and the same unit."""
        for level, held in enumerate(self._partial):
            if held is None:
                self._partial[level] = value
                return
            value, self._partial[level] = held + value, None
        self._partial.append(value)

    def total(self) -> Tensor:
        """Return the sum of all tensors so far, in the same shape, dtype and the same unit."""
        return reduce(torch.add, (held for held in self._partial if held is not None))


class MetricSums:
    """Named pairs of (sum, weight), both scalar tensors: float64 if added as float64, otherwise float32.

    The weight counts what the mean is taken over: pairs, tokens, micro-batches.

    Example:
        sums = MetricSums()
        for losses in micro_batches:                       # losses [P]
            sums.add("loss", losses.sum(), len(losses))
        vector = sums.vector()                             # [2n]; add this up over the ranks that hold pairs
        MetricSums.from_vector(sums.names, vector).means()
    """

    def __init__(self) -> None:
        self._sums: dict[str, PairwiseSum] = {}  # name -> [2]: sum, weight

    @classmethod
    def of(cls, names: Iterable[str], totals: Tensor, weights: Tensor) -> MetricSums:
        """Build a collection from sums [n] and weights [n], float32 or float64, of n names."""
        sums = cls()
        for name, total, weight in zip(names, totals.unbind(), weights.unbind(), strict=True):
            sums.add(name, total, weight)
        return sums

    def add(self, name: str, total: Tensor, weight: Tensor | float) -> None:
        """Add a sum and its weight, without synchronising.

        Args:
            name: A name of the table in `metric_names.py`.
            total: Scalar, floating dtype, the weighted sum over the items; detached.
            weight: Scalar, the number of items (pairs, tokens) of the sum.

        Raises:
            ValueError: The name is not in the table, or a value is not scalar.
        """
        metric(name)
        sum_of_items = _scalar(name, total)
        weight = weight if torch.is_tensor(weight) else sum_of_items.new_tensor(weight)
        self._add(name, torch.stack([sum_of_items, _scalar(name, weight).to(sum_of_items)]))

    def merge(self, other: MetricSums) -> None:
        """Add all sums of another collection to this one."""
        for name, entry in other._entries().items():
            self._add(name, entry)

    def _add(self, name: str, entry: Tensor) -> None:
        if name in self._sums:
            self._sums[name].add(entry)
        else:
            self._sums[name] = PairwiseSum(entry)

    def _entries(self) -> dict[str, Tensor]:
        return {name: entry.total() for name, entry in self._sums.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the metrics in the order of `vector`: sorted, hence equal on all ranks with the same metrics."""
        return tuple(sorted(self._sums))

    def vector(self) -> Tensor:
        """Return all n sums followed by all weights: [2n] values, float64 if one of them is, otherwise float32."""
        entries = self._entries()
        if not entries:
            return torch.zeros(0, dtype=torch.float32)
        is_wide = any(entry.dtype == torch.float64 for entry in entries.values())
        device = next(iter(entries.values())).device
        like = torch.empty(0, dtype=torch.float64 if is_wide else torch.float32, device=device)
        return torch.stack([entries[name].to(like) for name in self.names], 1).flatten()

    @classmethod
    def from_vector(cls, names: Sequence[str], vector: Tensor) -> MetricSums:
        """Rebuild a collection from `vector`, [2n] values, float32 or float64.

        Raises:
            ValueError: The vector is not [2n] for n names.
        """
        if vector.shape != (2 * len(names),):
            raise ValueError(f"vector must be [{2 * len(names)}] for {len(names)} metrics, got {list(vector.shape)}")
        sums = cls()
        for name, entry in zip(names, vector.reshape(2, -1).unbind(1), strict=True):
            sums._add(name, entry)
        return sums

    def means(self, prefix: str = "") -> dict[str, float]:
        """Return the mean of every metric, read from the device in one transfer; metrics of weight 0 are left out.

        Args:
            prefix: Prefix of every name, such as "eval/".
        """
        values = self.vector().tolist()
        count = len(self._sums)
        pairs = zip(self.names, values[:count], values[count:], strict=True)
        return {prefix + name: total / weight for name, total, weight in pairs if weight != 0}


def _scalar(name: str, value: Tensor) -> Tensor:
    if value.numel() != 1:
        raise ValueError(f"metric {name!r} needs a scalar sum and a scalar weight, got shape {list(value.shape)}")
    scalar = value.detach().reshape(())
    return scalar if scalar.dtype == torch.float64 else scalar.float()
