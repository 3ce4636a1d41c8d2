"""Where reference log-probabilities come from: a live model, or values computed once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.settings.data import DataConfig
from mindspeed_dpo.controller.role_groups import Group
from mindspeed_dpo.data.datasets.reference_cache import ReferenceCache, data_fingerprint
from mindspeed_dpo.workers.interfaces import Logps, Reference, Rows
from mindspeed_dpo.workers.setup.sources import evaluation_data, open_initial_weights

logger = logging.getLogger(__name__)


class NoReference:
    """For losses that compare with none."""

    def log_probs(self, pairs: Rows) -> Logps:
        """Zeros [N, 2] that nothing reads."""
        return np.zeros((len(pairs), 2), np.float32)

    def follow(self, done: int) -> bool:
        """Nothing follows."""
        return False


@dataclass(frozen=True)
class CachedReference:
    """Values [rows, 2] float32 of every dataset row."""

    values: NDArray[np.float32]

    def log_probs(self, pairs: Rows) -> Logps:
        """See `roles.Reference`."""
        return self.values[np.asarray(pairs)]

    def follow(self, done: int) -> bool:
        """Values that were written down stay."""
        return False


def cached_reference(
    run: RunConfig,
    num_rows: int,
    initial_actor: Reference,
    group: Group,
    live: Reference,
    sets: Mapping[str, NDArray[np.int64]] | None = None,
) -> CachedReference:
    """Read the caches, or compute what they should hold and write them: one of each set.

    Args:
        run: The run.
        num_rows: Rows to learn from, which are the first of the dataset.
        initial_actor: The policy before its first update; it computes where the reference is that policy.
        group: Where another reference is built for as long as it computes.
        live: That other reference, once built.
        sets: Rows of the evaluation sets, which follow, in this order.
    """
    assert run.ref is not None
    data = {"": run.ref.data, **evaluation_data(run)}
    parts = {"": np.arange(num_rows), **(sets or {})}
    caches = {name: _cache(run, run.ref, data[name], len(rows)) for name, rows in parts.items()}
    values = {name: cache.read() if cache else None for name, cache in caches.items()}
    missing = [name for name in parts if values[name] is None]
    if missing:
        values.update(_compute_with(run, {name: parts[name] for name in missing}, initial_actor, group, live))
    for name, cache in caches.items():
        if cache and name in missing:
            cache.write(_known(values[name]))
        if cache:
            told = "written to" if name in missing else "read from"
            logger.info("reference log-probabilities %s %s", told, cache.path)
    return CachedReference(np.concatenate([_known(values[name]) for name in parts]))


def _known(values: NDArray[np.float32] | None) -> NDArray[np.float32]:
    assert values is not None
    return values


def _cache(run: RunConfig, ref: RoleConfig, data: DataConfig, num_rows: int) -> ReferenceCache | None:
    """The cache of a set; none for random weights, which have no file to tell them by.

    They are the same again for the same seed and layout.
    """
    if ref.checkpoint.random_init:
        return None
    fingerprint = reference_fingerprint(replace(ref, data=data), run.loop.seed)
    return ReferenceCache(ref.reference.reference_cache_dir, fingerprint, num_rows)


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


def _compute_with(
    run: RunConfig, parts: Mapping[str, NDArray[np.int64]], initial_actor: Reference, group: Group, live: Reference
) -> dict[str, NDArray[np.float32]]:
    # With adapters that policy may not be the reference; a role of its own then asks it with adapters off.
    if run.is_ref_initial_policy and not run.actor.adapters.is_on:
        return {name: _compute(initial_actor, rows, run) for name, rows in parts.items()}
    group.build("ref")
    values = {name: _compute(live, rows, run) for name, rows in parts.items()}
    group.drop("ref")
    return values


def _compute(source: Reference, rows: NDArray[np.int64], run: RunConfig) -> NDArray[np.float32]:
    """Every row once, in chunks of a few steps, so that no process holds all rows at once."""
    count = len(rows)
    logger.info("computing reference log-probabilities of %d pairs", count)
    size = 4 * run.actor.batch.global_batch_size
    chunks, told = [], 0
    for start in range(0, count, size):
        chunks.append(source.log_probs(rows[start : start + size]))
        tenth = 10 * min(start + size, count) // count
        if tenth > told:
            logger.info("reference: %d%%", 10 * tenth)
            told = tenth
    return np.concatenate(chunks)
