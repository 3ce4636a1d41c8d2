"""Transfer of weights from the processes that train them to those that generate, under any layout on either side.

The processes that hold the first copy of a stage's weights assemble each bucket from their shards, the first of them
broadcasts it, and each receiver copies its own slices from it. A process may be on one side or on both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from mindspeed_dpo.parallel.weight_transfer_group import WeightGroup
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.resharding.buckets import Bucket, RowSlice, buckets
from mindspeed_dpo.weights.resharding.handshake import HandshakeResult, TransferHeader, compare_headers
from mindspeed_dpo.weights.resharding.shards import Region, Shards, TensorSpec


class Receiver(Protocol):
    """The tensors that a transfer writes to, such as the `Shards` of a process that generates."""

    @property
    def device(self) -> torch.device:
        """The device that buckets arrive on."""

    def specs(self) -> tuple[TensorSpec, ...]:
        """The unsharded tensors that are expected."""

    def regions(self, name: str, start: int, stop: int) -> Iterator[Region]:
        """The regions that take rows `start` to `stop` of an unsharded tensor.

        Each is written before the next is asked for, and the rows of a tensor come in order.
        """


@dataclass(frozen=True)
class Sender:
    """A process that holds shards to send.

    `Sender(shards, group=None, source=0)` holds all weights of its stage and broadcasts them as rank 0 of the link.

    Attributes:
        shards: Its tensors.
        group: The processes that hold the first copy of its stage's weights together, tensor- and expert-parallel
            ranks, or None if this is the only one.
        source: Rank in the link of the one among them that broadcasts.
        sends_experts: Whether its experts are part of the first copy.
        sends_others: Whether its other tensors are.
    """

    shards: Shards
    group: dist.ProcessGroup | None
    source: int
    sends_experts: bool = True
    sends_others: bool = True

    def share_problem(self, result: HandshakeResult) -> HandshakeResult:
        """Report a problem to the processes of the group, which may be outside the link; a collective of them."""
        if self.group is None:
            return result
        flag = torch.tensor(int(bool(result.problem)), dtype=torch.int32, device=self.shards.device)
        dist.all_reduce(flag, dist.ReduceOp.SUM, self.group)
        reported = "weights of actor and rollout differ; the error of this stage's first rank names the difference"
        return HandshakeResult(result.headers, result.problem or reported) if int(flag) else result

    def assemble(self, bucket: Bucket, buffer: Tensor) -> None:
        """Assemble the weights of a bucket in `buffer` [numel], in the bucket's dtype; a collective of the group."""
        if self.group is not None:
            buffer.zero_()
        for row_slice in bucket.slices:
            is_sent = self.sends_experts if self.shards.is_expert(row_slice.name) else self.sends_others
            for region in self.shards.owned_regions(row_slice.name, row_slice.start, row_slice.stop) if is_sent else ():
                _view(buffer, row_slice, region).copy_(region.tensor)
        if self.group is not None:
            # One rank holds the bits of an element and all others zero, so their sum as integers is exact.
            dist.all_reduce(buffer.view(torch.int8), dist.ReduceOp.SUM, self.group)


def transfer(
    link: WeightGroup | None,
    sender: Sender | None,
    receiver: Receiver | None,
    *,
    version: int,
    bucket_bytes: int,
    share: float = 1.0,
) -> None:
    """Transfer one version of the weights; a collective of the link and of the senders' groups.

    Args:
        link: The processes that broadcast and receive; None for a process that only helps to assemble buckets.
        sender: What this process sends, if it is a sender.
        receiver: The tensors to overwrite, if this process is a receiver.
        version: Version of the weights, equal on both sides.
        bucket_bytes: Largest size of a bucket, equal on both sides.
        share: Share of what is received in the receiver's new weights, from 0 to 1; 1 overwrites them.

    Raises:
        WeightsError: The sides differ in version, names, shapes or dtypes. All processes raise, and no data has moved.
    """
    sent = TransferHeader(version, bucket_bytes, sender.shards.specs()) if sender else None
    expected = TransferHeader(version, bucket_bytes, receiver.specs()) if receiver else None
    result = _handshake(link, sender, sent, expected)
    if result.problem:
        raise WeightsError(result.problem)
    plan = list(_all_buckets(result.headers, bucket_bytes))
    largest = max(bucket.num_bytes for bucket in plan)
    memory = torch.empty(largest, dtype=torch.uint8, device=_device(sender, receiver))
    for bucket in plan:
        buffer = memory[: bucket.num_bytes].view(bucket.dtype)
        if sender is not None and bucket.source == sender.source:
            sender.assemble(bucket, buffer)
        if link is not None:
            link.broadcast(buffer, bucket.source)
        if receiver is not None:
            _take_slices(bucket, buffer, receiver, share)


def _handshake(
    link: WeightGroup | None, sender: Sender | None, sent: TransferHeader | None, expected: TransferHeader | None
) -> HandshakeResult:
    """Compare headers with all processes of the link and of the sender's group."""
    if link is None:
        result = HandshakeResult({sender.source: sent} if sender and sent else {})
    else:
        broadcasts = sender is not None and link.rank == sender.source
        result = compare_headers(link, sent if broadcasts else None, expected)
    return result if sender is None else sender.share_problem(result)


def _all_buckets(headers: Mapping[int, TransferHeader], bucket_bytes: int) -> Iterator[Bucket]:
    """All buckets in the order of the transfer, stage after stage."""
    for source in sorted(headers):
        yield from buckets(headers[source].tensors, source, bucket_bytes)


def _take_slices(bucket: Bucket, buffer: Tensor, receiver: Receiver, share: float) -> None:
    """Take over this process's slices from a bucket, or mix them with its own."""
    for row_slice in bucket.slices:
        for region in receiver.regions(row_slice.name, row_slice.start, row_slice.stop):
            received = _view(buffer, row_slice, region)
            if share < 1:
                received = torch.lerp(region.tensor.float(), received.float(), share)
            region.tensor.copy_(received)


def _view(buffer: Tensor, row_slice: RowSlice, region: Region) -> Tensor:
    """The part of a bucket that a region covers, as a view."""
    view = buffer[row_slice.offset : row_slice.offset + row_slice.numel].view(row_slice.shape)
    for dim, first in enumerate((region.row - row_slice.start, region.column)[: view.dim()]):
        view = view.narrow(dim, first, region.tensor.shape[dim])
    return view


def _device(sender: Sender | None, receiver: Receiver | None) -> torch.device:
    if sender is not None:
        return sender.shards.device
    if receiver is not None:
        return receiver.device
    raise ValueError("a process in a transfer must be a sender, a receiver or both")
