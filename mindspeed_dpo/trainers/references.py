"""Where reference log-probabilities come from: a live model, or values computed once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.controller.handles import Group
from mindspeed_dpo.data.reference_cache import ReferenceCache, data_fingerprint
from mindspeed_dpo.workers.roles import Logps, Reference, Rows
from mindspeed_dpo.workers.sources import open_initial_weights

logger = logging.getLogger(__name__)


class NoReference:
    """For losses that compare with none."""

    def log_probs(self, pairs: Rows) -> Logps:
        """Zeros [N, 2] that nothing reads."""
        return np.zeros((len(pairs), 2), np.float32)


@dataclass(frozen=True)
class CachedReference:
    """Values [rows, 2] float32 of every dataset row."""

    values: NDArray[np.float32]

    def log_probs(self, pairs: Rows) -> Logps:
        """See `roles.Reference`."""
        return self.values[np.asarray(pairs)]


def cached_reference(
    run: RunConfig, num_rows: int, initial_actor: Reference, group: Group, live: Reference
) -> CachedReference:
    """Read the cache, or compute what it should hold and write it.

    Args:
        run: The run.
        num_rows: Rows of the dataset.
        initial_actor: The policy before its first update; it computes where the reference is that policy.
        group: Where another reference is built for as long as it computes.
        live: That other reference, once built.
    """
    assert run.ref is not None
    if run.ref.checkpoint.random_init:
        # Random weights have no file to tell them by; they are the same again for the same seed and layout.
        return CachedReference(_compute_with(run, num_rows, initial_actor, group, live))
    fingerprint = reference_fingerprint(run.ref, run.loop.seed)
    cache = ReferenceCache(run.ref.reference.reference_cache_dir, fingerprint, num_rows)
    values = cache.read()
    if values is None:
        values = _compute_with(run, num_rows, initial_actor, group, live)
        cache.write(values)
        logger.info("reference log-probabilities written to %s", cache.path)
    else:
        logger.info("reference log-probabilities read from %s", cache.path)
    return CachedReference(values)


def reference_fingerprint(ref: RoleConfig, seed: int) -> str:
    """What reference log-probabilities depend on, as a hash: weights, architecture, number format, token ids."""
    weights = open_initial_weights(ref)
    assert weights is not None, "random weights have no files to tell them by"
    model = json.dumps(ref.model.as_dict(), sort_keys=True)
    # Written down only where it weighs: other caches keep their names.
    weighted = f"ld_alpha {ref.loss.ld_alpha}" if ref.loss.ld_alpha != 1 else ""
    # What loosely fitting weights leave out is drawn from the seed.
    drawn = f"loosely, seed {seed}" if weights.loosely else ""
    parts = (
        weights.fingerprint(),
        model,
        ref.precision.dtype,
        data_fingerprint(ref.data),
        drawn,
        *([weighted] if weighted else []),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def is_initial_policy(run: RunConfig) -> bool:
    """Whether the reference is the policy as it is before the first update."""
    return run.is_ref_initial_policy


def _compute_with(
    run: RunConfig, count: int, initial_actor: Reference, group: Group, live: Reference
) -> NDArray[np.float32]:
    # With adapters that policy may not be the reference; a role of its own then asks it with adapters off.
    if is_initial_policy(run) and not run.actor.adapters.is_on:
        return _compute(initial_actor, count, run)
    group.build("ref")
    values = _compute(live, count, run)
    group.drop("ref")
    return values


def _compute(source: Reference, count: int, run: RunConfig) -> NDArray[np.float32]:
    """Every row once, in chunks of a few steps, so that no process holds all rows at once."""
    logger.info("computing reference log-probabilities of %d pairs", count)
    size = 4 * run.actor.batch.global_batch_size
    chunks, told = [], 0
    for start in range(0, count, size):
        chunks.append(source.log_probs(np.arange(start, min(start + size, count))))
        tenth = 10 * min(start + size, count) // count
        if tenth > told:
            logger.info("reference: %d%%", 10 * tenth)
            told = tenth
    return np.concatenate(chunks)
