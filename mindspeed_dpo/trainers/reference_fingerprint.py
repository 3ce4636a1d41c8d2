"""Fingerprint of a reference: cached log-probabilities are valid as long as it stays the same."""

from __future__ import annotations

import hashlib
import json

from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.data.datasets.data_fingerprint import data_fingerprint
from mindspeed_dpo.workers.setup.initial_weights import open_initial_weights


def reference_fingerprint(ref: RoleConfig, seed: int) -> str:
    """Hash what the reference's log-probabilities depend on: weights, architecture, dtype, token ids."""
    weights = open_initial_weights(ref)
    assert weights is not None, "random weights have no file to fingerprint"
    model = json.dumps(ref.model.as_dict(), sort_keys=True)
    # Added only if non-default, so existing cache keys stay valid.
    ld_alpha = f"ld_alpha {ref.loss.ld_alpha}" if ref.loss.ld_alpha != 1 else ""
    # Weights that a loosely loaded checkpoint lacks are initialised from the seed.
    random_part = f"loosely, seed {seed}" if weights.loosely else ""
    parts = (
        weights.fingerprint(),
        model,
        ref.precision.dtype,
        data_fingerprint(ref.data),
        random_part,
        *([ld_alpha] if ld_alpha else []),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
