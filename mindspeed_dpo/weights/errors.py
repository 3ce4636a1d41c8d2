"""The errors of this package; a message names the file or the side, the tensor or the key, and what to do."""

from __future__ import annotations

from mindspeed_dpo.untrusted.errors import QuotingError


class WeightsError(QuotingError):
    """Weights are missing or damaged, or do not fit the model or each other."""


class HfConfigError(QuotingError):
    """A config.json requests something that is not supported, or lacks a key that is required."""
