"""Carry weights from where they are trained to where they sample, whatever the layout on either side.

The tensor-parallel ranks of a stage's first replica put their shards together, bucket by bucket; the first of them
broadcasts the bucket; each receiver takes its own slices out of it. A process may be on either side, or on both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from mindspeed_dpo.parallel.link import Link
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.resharding.agreement import Header, Verdict, agree
from mindspeed_dpo.weights.resharding.plan import Bucket, Piece, buckets
from mindspeed_dpo.weights.resharding.shards import Region, Shards


@dataclass(frozen=True)
class Sender:
    """A process that holds shards to publish.

    Attributes:
        shards: Its tensors.
        group: The tensor-parallel ranks of its stage, or None where it is alone.
        source: Rank in the link of the one among them that broadcasts.
    """

    shards: Shards
    group: dist.ProcessGroup | None
    source: int

    def warn(self, verdict: Verdict) -> Verdict:
        """Tell the tensor-parallel ranks, which may be outside the link, whether something is wrong."""
        if self.group is None:
            return verdict
        flag = torch.tensor(int(bool(verdict.problem)), dtype=torch.int32, device=self.shards.device)
        dist.all_reduce(flag, dist.ReduceOp.SUM, self.group)
        told = "actor and rollout do not agree on the weights; the first rank of this stage says where they differ"
        return Verdict(verdict.headers, verdict.problem or told) if int(flag) else verdict

    def fill(self, bucket: Bucket, buffer: Tensor) -> None:
        """Put a bucket of this stage together; a collective of the tensor-parallel ranks."""
        if self.group is not None:
            buffer.zero_()
        for piece in bucket.pieces:
            for region in self.shards.own(piece.name, piece.start, piece.stop):
                _place(buffer, piece, region).copy_(region.tensor)
        if self.group is not None:
            # Of each element one rank has the bits and the others have zero: their sum as integers is exact.
            dist.all_reduce(buffer.view(torch.int8), dist.ReduceOp.SUM, self.group)


def transfer(
    link: Link | None, sender: Sender | None, receiver: Shards | None, *, version: int, bucket_bytes: int
) -> None:
    """Carry one version of the weights; a collective of the link and of the senders' groups.

    Args:
        link: The processes that broadcast and receive; None for one that only helps to put shards together.
        sender: What this process publishes, if it does.
        receiver: The tensors that are written, in place, if there are any.
        version: Of the weights; both sides must name the same.
        bucket_bytes: Most bytes on their way at once; both sides must name the same.

    Raises:
        WeightsError: The sides differ in version, names, shapes or data types. All processes raise, no data has moved.
    """
    published = Header(version, bucket_bytes, sender.shards.describe()) if sender else None
    expected = Header(version, bucket_bytes, receiver.describe()) if receiver else None
    verdict = _verdict(link, sender, published, expected)
    if verdict.problem:
        raise WeightsError(verdict.problem)
    plan = list(_plan(verdict.headers, bucket_bytes))
    room = torch.empty(max(bucket.num_bytes for bucket in plan), dtype=torch.uint8, device=_device(sender, receiver))
    for bucket in plan:
        buffer = room[: bucket.num_bytes].view(bucket.dtype)
        if sender is not None and bucket.source == sender.source:
            sender.fill(bucket, buffer)
        if link is not None:
            link.broadcast(buffer, bucket.source)
        if receiver is not None:
            _take(bucket, buffer, receiver)


def _verdict(link: Link | None, sender: Sender | None, published: Header | None, expected: Header | None) -> Verdict:
    """Agree with everyone this process works with."""
    if link is None:
        verdict = Verdict({sender.source: published} if sender and published else {})
    else:
        broadcasts = sender is not None and link.rank == sender.source
        verdict = agree(link, published if broadcasts else None, expected)
    return verdict if sender is None else sender.warn(verdict)


def _plan(headers: Mapping[int, Header], bucket_bytes: int) -> Iterator[Bucket]:
    """All buckets in the order in which they travel: stage after stage."""
    for source in sorted(headers):
        yield from buckets(headers[source].tensors, source, bucket_bytes)


def _take(bucket: Bucket, buffer: Tensor, receiver: Shards) -> None:
    """Copy this process's slices out of a bucket."""
    for piece in bucket.pieces:
        for region in receiver.regions(piece.name, piece.start, piece.stop):
            region.tensor.copy_(_place(buffer, piece, region))


def _place(buffer: Tensor, piece: Piece, region: Region) -> Tensor:
    """Where a region lies in a bucket, as a view."""
    view = buffer[piece.offset : piece.offset + piece.numel].view(piece.shape)
    for dim, first in enumerate((region.row - piece.start, region.column)[: view.dim()]):
        view = view.narrow(dim, first, region.tensor.shape[dim])
    return view


def _device(sender: Sender | None, receiver: Shards | None) -> torch.device:
    if sender is not None:
        return sender.shards.device
    if receiver is not None:
        return receiver.device
    raise ValueError("a process that neither publishes nor receives has no part in a transfer")
