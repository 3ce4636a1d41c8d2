"""The check before a transfer: all processes exchange headers, and all stop with the same message if they differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mindspeed_dpo.parallel.weight_transfer_group import WeightGroup
from mindspeed_dpo.weights.resharding.shards import TensorSpec

_MAX_LISTED = 4


@dataclass(frozen=True)
class TransferHeader:
    """The tensors that a process sends or expects to receive.

    `TransferHeader(3, 1 << 28, (TensorSpec("decoder.final_layernorm.weight", (4096,), "bfloat16"),))` announces one
    tensor of the weights after three iterations.

    Attributes:
        version: Version of the policy: the number of iterations it has been trained for.
        bucket_bytes: Largest size of a bucket.
        tensors: Unsharded tensors, in the model's order.
    """

    version: int
    bucket_bytes: int
    tensors: tuple[TensorSpec, ...]

    def to_json(self) -> str:
        """The header as a JSON text; `from_json` is the inverse."""
        tensors = [[tensor.name, tensor.shape, tensor.dtype] for tensor in self.tensors]
        return json.dumps({"version": self.version, "bucket_bytes": self.bucket_bytes, "tensors": tensors})

    @classmethod
    def from_json(cls, text: str) -> TransferHeader:
        """Parse a text that `to_json` has written."""
        values = json.loads(text)
        tensors = tuple(TensorSpec(name, tuple(shape), dtype) for name, shape, dtype in values["tensors"])
        return cls(values["version"], values["bucket_bytes"], tensors)


@dataclass(frozen=True)
class HandshakeResult:
    """The result of comparing headers.

    Attributes:
        headers: The headers of the senders by their rank in the link.
        problem: The first difference, or an empty text.
    """

    headers: Mapping[int, TransferHeader]
    problem: str = ""


def compare_headers(link: WeightGroup, sent: TransferHeader | None, expected: TransferHeader | None) -> HandshakeResult:
    """Compare what is sent with what is expected; a collective, with the same problem on every process.

    Args:
        link: The processes on both sides.
        sent: What this process sends, if it is a sender.
        expected: What this process expects, if it is a receiver.
    """
    texts = link.share("" if sent is None else sent.to_json())
    headers = {rank: TransferHeader.from_json(text) for rank, text in enumerate(texts) if text}
    problems = link.share(_find_problem(headers, sent, expected))
    return HandshakeResult(headers, next(filter(None, problems), ""))


def _find_problem(
    headers: Mapping[int, TransferHeader], sent: TransferHeader | None, expected: TransferHeader | None
) -> str:
    """The first difference between the senders' headers and those of this process; empty if there is none."""
    for header in headers.values():
        for own, side in ((sent, "another stage of the actor"), (expected, "the rollout")):
            if own is not None and header.version != own.version:
                return f"the actor publishes weights of version {header.version}, {side} is at version {own.version}"
            if own is not None and header.bucket_bytes != own.bucket_bytes:
                return (
                    f"publish_bucket_bytes is {header.bucket_bytes} at the actor and {own.bucket_bytes} at {side}; "
                    "set the same value for both"
                )
    if expected is None:
        return ""
    available = {tensor.name: tensor for header in headers.values() for tensor in header.tensors}
    return _describe(list(_differences(available, {tensor.name: tensor for tensor in expected.tensors})))


def _differences(sent: Mapping[str, TensorSpec], expected: Mapping[str, TensorSpec]) -> Iterator[tuple[str, str]]:
    """Name and specs of each tensor that differs: in the rollout's order, then those that only the actor has."""
    for name in [*expected, *(name for name in sent if name not in expected)]:
        if sent.get(name) != expected.get(name):
            yield name, f"{sent.get(name, 'missing')} at the actor and {expected.get(name, 'missing')} at the rollout"


def _describe(differences: list[tuple[str, str]]) -> str:
    if not differences:
        return ""
    (name, difference), *others = differences
    names = ", ".join(other for other, _ in others[:_MAX_LISTED])
    more = f" and {len(others) - _MAX_LISTED} more" if len(others) > _MAX_LISTED else ""
    also = f" (others: {names}{more})" if others else ""
    return f"weights of actor and rollout differ: {name} is {difference}{also}; use the same model and dtype for both"
