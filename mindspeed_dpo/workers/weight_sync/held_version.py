"""The check of a policy version before a rollout generates with it."""

from __future__ import annotations


def current_version(held: int | None, expected: int | None) -> int:
    """Return the version that a rollout holds.

    Args:
        held: That version; None before the first weights.
        expected: The version that is requested; None accepts any.

    Raises:
        ValueError: It holds another version, or no weights yet.
    """
    if held is None:
        raise ValueError("the rollout has no weights yet; the actor must send them before the first prompt")
    if expected is not None and expected != held:
        raise ValueError(f"policy version {expected} was requested, but the rollout holds version {held}")
    return held
