"""Columns that the vocabulary head returns for each row: log-probability of its label, and statistics on request."""

from __future__ import annotations

LOGP, ENTROPY, TOP1_HIT, MEAN_LOGIT, LOG_COLLISION = range(5)
"""In nats, but for `TOP1_HIT` (0 or 1) and `MEAN_LOGIT`; `LOG_COLLISION` is log(sum of p^2) over the vocabulary."""
