"""Short hashes that identify the settings of token files."""

from __future__ import annotations

import hashlib


def digest(*parts: object) -> str:
    """Return a short hash of the parts, equal in every process."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
