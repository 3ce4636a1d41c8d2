"""The error of this package."""

from __future__ import annotations

from mindspeed_dpo.untrusted.errors import QuotingError


class MigrationError(QuotingError):
    """A file that cannot be converted; the message names it, and says what was expected."""
