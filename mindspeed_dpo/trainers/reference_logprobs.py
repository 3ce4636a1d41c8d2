"""Sources of the reference's log-probabilities: a live model, or values computed once and cached on disk."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.settings.data import DataConfig
from mindspeed_dpo.controller.role_groups import ActorGroup, ReferenceGroup
from mindspeed_dpo.controller.worker_group import WorkerGroup
from mindspeed_dpo.data.datasets.reference_cache import ReferenceCache, data_fingerprint
from mindspeed_dpo.workers.role_interfaces import Logps, Rows
from mindspeed_dpo.workers.setup.datasets import evaluation_data
from mindspeed_dpo.workers.setup.initial_weights import open_initial_weights

logger = logging.getLogger(__name__)


class ReferenceSource(Protocol):
    """A source of the reference's log-probabilities: `ReferenceGroup`, `CachedReference` or `NoReference`."""

    def log_probs(self, pairs: Rows) -> Logps:
        """Return the summed response log-probabilities [N, 2] float64 of N dataset rows, in nats."""

    def sync_if_due(self, num_done: int) -> bool:
        """Update the reference towards the policy if it is due after `num_done` steps; return whether it was."""


class NoReference:
    """The source for losses that use no reference."""

    def log_probs(self, pairs: Rows) -> Logps:
        """Return zeros [N, 2], which no loss reads."""
        return np.zeros((len(pairs), 2), np.float64)

    def sync_if_due(self, num_done: int) -> bool:
        """Return False: there is nothing to update."""
        return False


@dataclass(frozen=True)
class CachedReference:
    """Cached log-probabilities of every dataset row.

    Attributes:
        values: [rows, 2] float64, in nats.
    """

    values: NDArray[np.float64]

    def log_probs(self, pairs: Rows) -> Logps:
        """Return the cached log-probabilities [N, 2] of N dataset rows."""
        return self.values[np.asarray(pairs)]

    def sync_if_due(self, num_done: int) -> bool:
        """Return False: cached values are never updated."""
        return False


def cached_reference(
    run: RunConfig,
    num_rows: int,
    initial_actor: ActorGroup,
    group: WorkerGroup,
    live: ReferenceGroup,
    sets: Mapping[str, NDArray[np.int64]] | None = None,
) -> CachedReference:
    """Read the cache of each set, or compute the values and write it.

    Args:
        run: Settings of the run.
        num_rows: Number of training rows, the first of the dataset.
        initial_actor: The policy before its first update, which computes the values if it is the reference.
        group: Processes on which another reference is built while it computes the values.
        live: That other reference.
        sets: Evaluation set -> its [m] int64 dataset rows, which come after the training rows, in this order.

    Returns:
        The values of all rows, float32 in nats.
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
            cache.write(_present(values[name]))
        if cache:
            action = "written to" if name in missing else "read from"
            logger.info("reference log-probabilities %s %s", action, cache.path)
    return CachedReference(np.concatenate([_present(values[name]) for name in parts]))


def _present(values: NDArray[np.float64] | None) -> NDArray[np.float64]:
    assert values is not None
    return values


def _cache(run: RunConfig, ref: RoleConfig, data: DataConfig, num_rows: int) -> ReferenceCache | None:
    """Return the cache of a set; None for random weights, which have no file to fingerprint.

    The same seed and layout reproduce those.
    """
    if ref.checkpoint.random_init:
        return None
    fingerprint = reference_fingerprint(replace(ref, data=data), run.loop.seed)
    return ReferenceCache(ref.reference.reference_cache_dir, fingerprint, num_rows)


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


def _compute_with(
    run: RunConfig,
    parts: Mapping[str, NDArray[np.int64]],
    initial_actor: ActorGroup,
    group: WorkerGroup,
    live: ReferenceGroup,
) -> dict[str, NDArray[np.float64]]:
    # Initial adapters may change the policy; the role `ref` then uses the actor's model with its adapters disabled.
    if run.is_ref_initial_policy and not run.actor.adapters.is_on:
        return {name: _compute(initial_actor, rows, run) for name, rows in parts.items()}
    group.build("ref")
    values = {name: _compute(live, rows, run) for name, rows in parts.items()}
    group.drop("ref")
    return values


def _compute(source: ActorGroup | ReferenceGroup, rows: NDArray[np.int64], run: RunConfig) -> NDArray[np.float64]:
    """Compute every row, in chunks of a few steps, so that no process holds all rows at once."""
    count = len(rows)
    logger.info("computing reference log-probabilities of %d pairs", count)
    size = 4 * run.actor.batch.global_batch_size
    chunks, logged = [], 0
    for start in range(0, count, size):
        chunks.append(source.log_probs(rows[start : start + size]))
        tenth = 10 * min(start + size, count) // count
        if tenth > logged:
            logger.info("reference: %d%%", 10 * tenth)
            logged = tenth
    return np.concatenate(chunks)
