"""One way to name what shaped the token ids: a short hash."""

from __future__ import annotations

import hashlib


def digest(*parts: object) -> str:
    """A short hash of the parts, the same in every process."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
