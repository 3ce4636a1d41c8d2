"""Both sides say what they have before any data moves; where they differ, all of them learn it and stop."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mindspeed_dpo.parallel.link import Link
from mindspeed_dpo.weights.resharding.shards import Described

_LISTED = 4


@dataclass(frozen=True)
class Header:
    """What a process sends or expects.

    Attributes:
        version: Of the policy: optimizer iterations it has learned from.
        bucket_bytes: Most bytes on their way at once.
        tensors: Whole tensors, in the model's order.
    """

    version: int
    bucket_bytes: int
    tensors: tuple[Described, ...]

    def as_text(self) -> str:
        """As JSON."""
        tensors = [[tensor.name, tensor.shape, tensor.dtype] for tensor in self.tensors]
        return json.dumps({"version": self.version, "bucket_bytes": self.bucket_bytes, "tensors": tensors})

    @classmethod
    def from_text(cls, text: str) -> Header:
        """The inverse of `as_text`."""
        values = json.loads(text)
        tensors = tuple(Described(name, tuple(shape), dtype) for name, shape, dtype in values["tensors"])
        return cls(values["version"], values["bucket_bytes"], tensors)


@dataclass(frozen=True)
class Verdict:
    """What came of comparing: the headers of the publishers by their rank, and what is wrong, or nothing."""

    headers: Mapping[int, Header]
    problem: str = ""


def agree(link: Link, published: Header | None, expected: Header | None) -> Verdict:
    """Compare what is published with what is expected; a collective, with the same problem for everyone.

    Args:
        link: The processes on both sides.
        published: What this process sends, if it does.
        expected: What this process receives, if it does.
    """
    texts = link.share("" if published is None else published.as_text())
    headers = {rank: Header.from_text(text) for rank, text in enumerate(texts) if text}
    problems = link.share(_problem(headers, published, expected))
    return Verdict(headers, next(filter(None, problems), ""))


def _problem(headers: Mapping[int, Header], published: Header | None, expected: Header | None) -> str:
    """The first difference between the headers and what this process has, as a sentence."""
    for header in headers.values():
        for mine, side in ((published, "another stage of the actor"), (expected, "the rollout")):
            if mine is not None and header.version != mine.version:
                return f"the actor publishes weights of version {header.version}, {side} is at version {mine.version}"
            if mine is not None and header.bucket_bytes != mine.bucket_bytes:
                return (
                    f"publish_bucket_bytes is {header.bucket_bytes} at the actor and {mine.bucket_bytes} at {side}; "
                    "both must have the same"
                )
    if expected is None:
        return ""
    sent = {tensor.name: tensor for header in headers.values() for tensor in header.tensors}
    return _sentence(list(_differences(sent, {tensor.name: tensor for tensor in expected.tensors})))


def _differences(sent: Mapping[str, Described], wanted: Mapping[str, Described]) -> Iterator[tuple[str, str]]:
    """Names and what each side has, in the rollout's order, then what only the actor has."""
    for name in [*wanted, *(name for name in sent if name not in wanted)]:
        if sent.get(name) != wanted.get(name):
            yield name, f"{sent.get(name, 'not there')} at the actor and {wanted.get(name, 'not there')} at the rollout"


def _sentence(differences: list[tuple[str, str]]) -> str:
    if not differences:
        return ""
    (name, what), *others = differences
    names = ", ".join(other for other, _ in others[:_LISTED])
    more = f" and {len(others) - _LISTED} more" if len(others) > _LISTED else ""
    also = f" (others: {names}{more})" if others else ""
    return f"weights of actor and rollout differ: {name} is {what}{also}; give both the same model and number format"
