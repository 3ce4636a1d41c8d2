"""Sources of the reference's log-probabilities: a live model, or values computed once and cached on disk."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.settings.data import DataConfig
from mindspeed_dpo.controller.role_groups import ActorGroup, ReferenceGroup
from mindspeed_dpo.controller.worker_group import WorkerGroup
from mindspeed_dpo.data.datasets.reference_cache import CachedRows, ReferenceCache
from mindspeed_dpo.observability.live_status import live_status
from mindspeed_dpo.trainers.reference_fingerprint import reference_fingerprint
from mindspeed_dpo.workers.role_values import Logps, Rows
from mindspeed_dpo.workers.setup.open_datasets import evaluation_data

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
        """Return zeros [N, 2] float64 in nats for N dataset rows, which no loss reads."""
        return np.zeros((len(pairs), 2), np.float64)

    def sync_if_due(self, num_done: int) -> bool:
        """Return False: there is nothing to update."""
        return False


@dataclass(frozen=True)
class CachedReference:
    """Cached log-probabilities of the dataset rows that the run reads.

    Attributes:
        values: [rows, 2] float64, in nats.
        is_present: [rows] bool, whether a row has values; None if all have.
    """

    values: NDArray[np.float64]
    is_present: NDArray[np.bool_] | None = None

    def log_probs(self, pairs: Rows) -> Logps:
        """Return the cached log-probabilities [N, 2] of N dataset rows."""
        rows = np.asarray(pairs)
        assert self.is_present is None or self.is_present[rows].all(), "a row was read that the run did not announce"
        return self.values[rows]

    def sync_if_due(self, num_done: int) -> bool:
        """Return False: cached values are never updated."""
        return False


@dataclass(frozen=True)
class _Part:
    """The rows of one dataset: the training rows or an evaluation set.

    Attributes:
        rows: [n] int64, consecutive rows of the combined dataset.
        needed: [m] int64, those of them that the run reads.
        cache: Its file; None for random weights.
        cached: [n] values that are stored or computed.
    """

    rows: NDArray[np.int64]
    needed: NDArray[np.int64]
    cache: ReferenceCache | None
    cached: CachedRows

    @property
    def missing(self) -> NDArray[np.int64]:
        """Rows [k] of the combined dataset that have to be computed."""
        return self.needed[~self.cached.is_present[self.needed - self.rows[0]]] if len(self.needed) else self.needed

    def store(self, rows: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        """Store computed values [k, 2] float64, in nats, of rows [k], also in the file.

        Raises:
            WriteError: The file cannot be written.
        """
        self.cached.store(rows - self.rows[0], values)
        if self.cache is not None:
            self.cache.append(rows - self.rows[0], values)


def cached_reference(
    run: RunConfig,
    num_rows: int,
    initial_actor: ActorGroup,
    group: WorkerGroup,
    live: ReferenceGroup,
    sets: Mapping[str, NDArray[np.int64]] | None = None,
    needed: NDArray[np.int64] | None = None,
) -> CachedReference:
    """Read the cache of each set, and compute the values that are missing and store them.

    Args:
        run: Settings of the run.
        num_rows: Number of training rows, the first of the dataset.
        initial_actor: The policy before its first update, which computes the values if it is the reference.
        group: Processes on which another reference is built while it computes the values.
        live: That other reference.
        sets: Evaluation set -> its [m] int64 dataset rows, which come after the training rows, in this order.
        needed: [n] int64 dataset rows that the run reads; by default all.

    Returns:
        The values of these rows, float64 in nats.

    Raises:
        WriteError: The cache cannot be written; values stored before are used by the next run.
    """
    assert run.ref is not None
    data = {"": run.ref.data, **evaluation_data(run)}
    ranges = {"": np.arange(num_rows), **(sets or {})}
    parts = [_open_part(run, run.ref, data[name], rows, needed) for name, rows in ranges.items()]
    missing = [part for part in parts if len(part.missing)]
    _log_sources(parts)
    if missing:
        _compute_with(run, missing, initial_actor, group, live)
    return CachedReference(
        np.concatenate([part.cached.values for part in parts]),
        np.concatenate([part.cached.is_present for part in parts]),
    )


def _open_part(
    run: RunConfig, ref: RoleConfig, data: DataConfig, rows: NDArray[np.int64], needed: NDArray[np.int64] | None
) -> _Part:
    cache = _cache(run, ref, data, len(rows))
    of_part = rows if needed is None else np.intersect1d(needed, rows)
    return _Part(rows, of_part, cache, cache.read() if cache else CachedRows.empty(len(rows)))


def _log_sources(parts: Sequence[_Part]) -> None:
    for part in parts:
        num_missing, num_needed = len(part.missing), len(part.needed)
        if part.cache and num_needed > num_missing:
            logger.info(
                "reference log-probabilities of %d of %d pairs read from %s",
                *(num_needed - num_missing, num_needed, part.cache.path),
            )


def _cache(run: RunConfig, ref: RoleConfig, data: DataConfig, num_rows: int) -> ReferenceCache | None:
    """Return the cache of a set; None for random weights, which have no file to fingerprint.

    The same seed and layout reproduce those.
    """
    if ref.checkpoint.random_init:
        return None
    fingerprint = reference_fingerprint(replace(ref, data=data), run.loop.seed)
    return ReferenceCache(ref.reference.reference_cache_dir, fingerprint, num_rows)


def _compute_with(
    run: RunConfig, parts: Sequence[_Part], initial_actor: ActorGroup, group: WorkerGroup, live: ReferenceGroup
) -> None:
    # Initial adapters may change the policy; the role `ref` then uses the actor's model with its adapters disabled.
    if run.is_ref_initial_policy and not run.actor.adapters.is_on:
        for part in parts:
            _compute(initial_actor, part, run)
        return
    group.build("ref")
    for part in parts:
        _compute(live, part, run)
    group.drop("ref")


def _compute(source: ActorGroup | ReferenceGroup, part: _Part, run: RunConfig) -> None:
    """Compute the missing rows, in chunks of a few steps that are stored at once."""
    rows, size = part.missing, 4 * run.actor.batch.global_batch_size
    target = f", stored in {part.cache.path}" if part.cache else ""
    logger.info("computing reference log-probabilities of %d pairs%s", len(rows), target)
    with live_status.phase("reference log-probabilities", len(rows)) as phase:
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            part.store(chunk, source.log_probs(chunk))
            phase.advance(len(chunk))
    logger.info("reference log-probabilities of %d pairs computed in %.1f s", len(rows), phase.elapsed_s)
