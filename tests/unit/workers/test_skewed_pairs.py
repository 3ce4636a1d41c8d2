"""Pairs whose lengths differ much, packed to a budget: cross-pair losses, the order of what comes back, resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.controller.role_groups import ActorGroup, ReferenceGroup
from mindspeed_dpo.workers.setup.open_datasets import open_pairs
from tests.support.processes import PoolGroup
from tests.support.runs import Layout
from tests.unit.workers.pairs import random_run, write_pairs

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

AMOUNTS = {"tokens_computed", "micro_batches", "micro_batch_fill", "memory/peak_bytes"}
COUNT = 12


def skewed_pairs(folder: Path, seed: int = 0) -> Path:
    """Pairs whose lengths differ much; a few are longer than the budgets."""
    draw = np.random.default_rng(seed)
    lengths = np.minimum(draw.lognormal(1.2, 0.8, (COUNT, 3)).astype(int) + 1, 30)
    pairs = [tuple(draw.integers(0, 256, n).tolist() for n in row) for row in lengths]
    return write_pairs(folder / f"skewed{seed}", pairs)  # type: ignore[arg-type]


def build_actor(folder: Path, layout: Layout, **settings: Any) -> tuple[PoolGroup, ActorGroup, RunConfig]:
    """The actor of a run over those pairs."""
    keys = {"data_path": skewed_pairs(folder), "global_batch_size": COUNT, "seq_length": 64, "clip_grad": 0.0}
    if "micro_batch_tokens" in settings:
        settings["micro_batch_size"] = None
    run = random_run(folder, layout, **{**keys, **settings})
    group = PoolGroup(run, layout[0] * layout[1] * layout[2])
    group.build("actor")
    return group, ActorGroup(group), run


def metrics_of(folder: Path, layout: Layout, **settings: Any) -> dict[str, float]:
    """Of a step over rows out of order."""
    group, actor, _ = build_actor(folder, layout, **settings)
    rows = np.random.default_rng(1).permutation(COUNT)
    references = actor.log_probs(rows) + np.linspace(-3, 3, 2 * COUNT, dtype=np.float32).reshape(-1, 2)
    metrics = actor.update(0, rows, references)
    group.leave()
    return metrics


def test_losses_over_the_full_step_see_the_same_values(tmp_path: Path) -> None:
    settings = {"dpo_loss_type": "[aot,sft]", "loss_weights": "[1,0.5]", "loss_group_size": 4, "beta_dpo_alpha": 0.6}
    expected = metrics_of(tmp_path / "one", (1, 1, 1), micro_batch_size=1, **settings)
    actual = metrics_of(tmp_path / "two", (1, 1, 2), micro_batch_tokens=40, **settings)
    for name in expected.keys() - AMOUNTS:
        assert actual[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-6), name


def test_references_and_evaluation_come_in_the_order_of_the_rows(tmp_path: Path) -> None:
    rows = np.arange(COUNT)[::-1]
    actual = []
    for name, settings in (("one", {"micro_batch_size": 1}), ("two", {"micro_batch_tokens": 30})):
        group, actor, run = build_actor(tmp_path / name, (1, 1, 2), reference="live", **settings)
        group.build("ref")
        reference = ReferenceGroup(group)
        logps = reference.log_probs(rows)
        measured = actor.evaluate(rows, logps * np.linspace(0.5, 1.5, COUNT, dtype=np.float32)[:, None])
        pairs = open_pairs(run).batch(rows)
        assert np.allclose(reference.log_probs(pairs), logps, rtol=1e-6)
        tokens = reference.start_token_log_probs(pairs)()
        per_pair = np.add.reduceat(tokens, np.cumsum([0, *pairs.response_lengths.sum(1).tolist()])[:-1])
        np.testing.assert_allclose(per_pair, logps.sum(1), rtol=1e-5)
        actual.append((logps, measured))
        group.leave()
    np.testing.assert_allclose(actual[1][0], actual[0][0], rtol=1e-5)
    assert actual[1][1] == pytest.approx(actual[0][1], rel=1e-5, abs=1e-6)


def test_a_continued_run_makes_the_same_micro_batches(tmp_path: Path) -> None:
    rows = np.random.default_rng(2).permutation(COUNT)
    group, actor, _ = build_actor(tmp_path, (1, 1, 2), micro_batch_tokens=30, lr=1e-2)
    references = actor.log_probs(rows)
    actor.update(0, rows, references)
    folder = actor.save(1, {})
    actor.update(1, rows[::-1], references[::-1])
    expected = actor.log_probs(rows)
    group.leave()
    group, actor, _ = build_actor(tmp_path, (1, 1, 2), micro_batch_tokens=30, lr=1e-2)
    actor.load(folder, True, True)
    actor.update(1, rows[::-1], references[::-1])
    assert np.array_equal(actor.log_probs(rows), expected)
    group.leave()
