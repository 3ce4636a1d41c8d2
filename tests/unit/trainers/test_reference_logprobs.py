"""Reference values: computed once by the reference, and read from disk while nothing they depend on changes."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.data.datasets.reference_cache import ReferenceCache
from mindspeed_dpo.storage.write_errors import WriteError
from mindspeed_dpo.trainers.reference_fingerprint import reference_fingerprint
from mindspeed_dpo.trainers.reference_logprobs import (
    CachedReference,
    cached_reference,
)
from tests.unit.workers.pairs import PAIRS, random_run, write_pairs

ROWS = len(PAIRS)


@dataclass
class FakeRoles:
    """A model that scores row r with `[base + r, base - r]`, or a group that builds it; both record their calls."""

    base: float = 0.0
    requests: list[Any] = field(default_factory=list)

    def log_probs(self, rows: np.ndarray) -> np.ndarray:
        self.requests.append(rows.tolist())
        return np.stack([self.base + rows, self.base - rows], 1).astype(np.float64)

    def build(self, role: str) -> None:
        self.requests.append(f"build {role}")

    def drop(self, role: str) -> None:
        self.requests.append(f"drop {role}")

    def call(self, *args: Any) -> list[Any]:
        raise AssertionError("the roles are called, not the group")


def write_weights(folder: Path, value: float) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    save_file({"weight": torch.full((2,), value)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    """A run whose reference is its initial policy, with weights on disk."""
    weights = write_weights(tmp_path / "policy", 1.0)
    cache = tmp_path / "cache"
    return random_run(tmp_path, random_init=False, load=weights, finetune=True, reference_cache_dir=cache)


def with_ref(run: RunConfig, group: str, **changes: Any) -> RunConfig:
    assert run.ref is not None
    return replace(run, ref=replace(run.ref, **{group: replace(getattr(run.ref, group), **changes)}))


def compute(run: RunConfig, actor: FakeRoles, group: FakeRoles | None = None, live: FakeRoles | None = None) -> Any:
    reference = cached_reference(run, ROWS, actor, group or FakeRoles(), live or FakeRoles())
    return reference.log_probs(range(ROWS))


def values(base: float) -> list[list[float]]:
    return [[base + row, base - row] for row in range(ROWS)]


def test_rows_are_looked_up_in_the_requested_order() -> None:
    reference = CachedReference(np.arange(10, dtype=np.float32).reshape(5, 2))
    assert reference.log_probs([3, 0, 3]).tolist() == [[6, 7], [0, 1], [6, 7]]


def test_the_initial_policy_computes_its_own_reference_once(run: RunConfig) -> None:
    actor, group = FakeRoles(base=3), FakeRoles()
    assert compute(run, actor, group).tolist() == values(3)
    assert [row for rows in actor.requests for row in rows] == list(range(ROWS)) and group.requests == []
    assert compute(run, FakeRoles(base=99)).tolist() == values(3)


def test_rows_are_computed_a_few_steps_at_a_time(run: RunConfig) -> None:
    actor = FakeRoles()
    compute(with_batches_of(run, 1), actor)
    assert actor.requests == [[0, 1, 2, 3], [4]]


def test_another_reference_is_built_queried_and_dropped(run: RunConfig, tmp_path: Path) -> None:
    run = with_ref(run, "checkpoint", load=str(write_weights(tmp_path / "reference", 2.0)))
    actor, live = FakeRoles(), FakeRoles(base=5)
    group = FakeRoles(requests=live.requests)
    assert compute(run, actor, group, live).tolist() == values(5)
    assert group.requests == ["build ref", list(range(ROWS)), "drop ref"] and actor.requests == []


def test_a_cache_that_is_there_queries_no_role(run: RunConfig) -> None:
    compute(run, FakeRoles(base=3))
    actor, group, live = FakeRoles(), FakeRoles(), FakeRoles()
    compute(run, actor, group, live)
    assert actor.requests == group.requests == live.requests == []


def with_batches_of(run: RunConfig, size: int) -> RunConfig:
    return replace(run, actor=replace(run.actor, batch=replace(run.actor.batch, global_batch_size=size)))


def test_damaged_rows_are_computed_again_and_stored(run: RunConfig, tmp_path: Path) -> None:
    one_by_four = with_batches_of(run, 1)
    compute(one_by_four, FakeRoles(base=3))
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    second, third = FakeRoles(base=3), FakeRoles()
    assert compute(one_by_four, second).tolist() == compute(one_by_four, third).tolist() == values(3)
    assert (second.requests, third.requests) == ([[4]], [])


def test_an_interrupted_computation_goes_on(run: RunConfig) -> None:
    class Dying(FakeRoles):
        def log_probs(self, rows: np.ndarray) -> np.ndarray:
            if self.requests:
                raise RuntimeError("killed")
            return super().log_probs(rows)

    with pytest.raises(RuntimeError, match="killed"):
        compute(with_batches_of(run, 1), Dying(base=3))
    second = FakeRoles(base=3)
    assert compute(with_batches_of(run, 1), second).tolist() == values(3) and second.requests == [[4]]


def test_only_rows_that_the_run_reads_are_computed(run: RunConfig) -> None:
    first, second = FakeRoles(base=3), FakeRoles(base=3)
    few = cached_reference(run, ROWS, first, FakeRoles(), FakeRoles(), needed=np.array([1, 3]))
    assert first.requests == [[1, 3]] and few.log_probs([3, 1]).tolist() == [[6.0, 0.0], [4.0, 2.0]]
    with pytest.raises(AssertionError, match="did not announce"):
        few.log_probs([0])
    more = cached_reference(run, ROWS, second, FakeRoles(), FakeRoles(), needed=np.array([0, 1, 3, 4]))
    assert second.requests == [[0, 4]] and more.log_probs([0, 1, 3, 4]).tolist() == [
        values(3)[row] for row in (0, 1, 3, 4)
    ]


def test_a_cache_that_cannot_be_written_ends_the_run_and_keeps_what_was_stored(
    run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, calls = ReferenceCache.append, []

    def full(cache: ReferenceCache, rows: np.ndarray, values: np.ndarray) -> None:
        calls.append(rows)
        if len(calls) > 1:
            raise WriteError("the disk is full")
        append(cache, rows, values)

    monkeypatch.setattr(ReferenceCache, "append", full)
    with pytest.raises(WriteError, match="the disk is full"):
        compute(with_batches_of(run, 1), FakeRoles(base=3))
    monkeypatch.undo()
    second = FakeRoles(base=3)
    assert compute(with_batches_of(run, 1), second).tolist() == values(3) and second.requests == [[4]]


def test_a_cache_of_the_first_version_is_computed_again_with_one_line(
    run: RunConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = np.full((ROWS, 2), 7, "<f4").tobytes()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"{fingerprint(run)}.ref_logps").write_bytes(hashlib.sha256(old).digest() + old)
    for expected in (1, 0):
        assert compute(run, FakeRoles(base=3)).tolist() == values(3)
        assert len([line for line in caplog.messages if "earlier version" in line]) == expected
        caplog.clear()


def test_random_weights_are_computed_every_time_and_leave_no_file(run: RunConfig, tmp_path: Path) -> None:
    run = random_run(tmp_path, reference_cache_dir=tmp_path / "cache")
    for base in (1, 2):
        assert compute(run, FakeRoles(base=base)).tolist() == values(base)
    assert not (tmp_path / "cache").exists()


def test_a_random_reference_of_a_loaded_policy_is_not_that_policy(run: RunConfig) -> None:
    run = with_ref(run, "checkpoint", load=None, random_init=True)
    assert not run.is_ref_initial_policy
    assert compute(run, FakeRoles(base=3), live=FakeRoles(base=5)).tolist() == values(5)


@pytest.mark.parametrize(
    ("group", "changes"),
    [
        ("checkpoint", {"load": "elsewhere"}),
        ("checkpoint", {"load": None, "random_init": True}),
        ("model", {"rotary_base": 5e5}),
        ("precision", {"bf16": True}),
    ],
)
def test_a_reference_that_differs_is_not_the_initial_policy(
    group: str, changes: dict[str, Any], run: RunConfig
) -> None:
    assert run.is_ref_initial_policy
    assert not with_ref(run, group, **changes).is_ref_initial_policy


@pytest.mark.parametrize(
    ("group", "changes"),
    [
        ("precision", {"bf16": True}),
        ("model", {"rotary_base": 5e5}),
        ("data", {"seq_length": 8}),
        ("data", {"truncation": "keep_start"}),
        ("loss", {"ld_alpha": 0.5}),
    ],
    ids=["number format", "architecture", "length", "truncation", "weight of excess tokens"],
)
def test_what_changes_the_values_changes_the_fingerprint(group: str, changes: dict[str, Any], run: RunConfig) -> None:
    other = with_ref(run, group, **changes)
    assert fingerprint(other) != fingerprint(run)
    assert compute(other, FakeRoles(base=1), live=FakeRoles(base=1)).tolist() == values(1)
    assert compute(run, FakeRoles(base=2)).tolist() == values(2)


def test_changed_weights_and_changed_tokens_change_the_fingerprint(run: RunConfig, tmp_path: Path) -> None:
    before = fingerprint(run)
    write_pairs(tmp_path / "pairs", [([1], [2], [3]), *PAIRS[1:]])
    with_other_data = fingerprint(run)
    save_file({"weight": torch.full((2,), 1.5)}, tmp_path / "policy" / "model.safetensors")
    assert len({before, with_other_data, fingerprint(run)}) == 3


def test_the_seed_counts_where_loose_weights_leave_something_out(run: RunConfig) -> None:
    reseeded, loosely = replace(run, loop=replace(run.loop, seed=99)), {"load_checkpoint_loosely": True}
    assert fingerprint(reseeded) == fingerprint(run)
    both = [fingerprint(with_ref(one, "checkpoint", **loosely)) for one in (run, reseeded)]
    assert len({*both, fingerprint(run)}) == 3


def test_moving_weights_and_data_keeps_the_fingerprint(run: RunConfig, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "policy", tmp_path / "moved")
    moved = with_ref(run, "checkpoint", load=str(tmp_path / "moved"))
    moved = with_ref(moved, "data", data_path=str(write_pairs(tmp_path / "same")))
    assert fingerprint(moved) == fingerprint(run)


def fingerprint(run: RunConfig) -> str:
    assert run.ref is not None
    return reference_fingerprint(run.ref, run.loop.seed)


def test_evaluation_sets_have_caches_of_their_own(run: RunConfig, tmp_path: Path) -> None:
    paths = {"x": str(write_pairs(tmp_path / "x", PAIRS[:2])), "y": str(write_pairs(tmp_path / "y", PAIRS[2:]))}
    more = replace(run, loop=replace(run.loop, eval_data_path=paths))
    sets = {"x": np.array([5, 6]), "y": np.array([7, 8, 9])}
    first, second, alone = FakeRoles(base=3.0), FakeRoles(base=4.0), FakeRoles(base=5.0)
    actual = cached_reference(more, ROWS, first, FakeRoles(), FakeRoles(), sets)
    assert actual.log_probs(range(10)).tolist() == [[3.0 + row, 3.0 - row] for row in range(10)]
    again = cached_reference(more, ROWS, second, FakeRoles(), FakeRoles(), sets)
    assert np.array_equal(again.values, actual.values) and second.requests == []
    assert compute(run, alone).tolist() == values(3.0) and alone.requests == []
    other = replace(more, loop=replace(run.loop, eval_data_path={"z": paths["y"]}))
    assert cached_reference(other, ROWS, alone, FakeRoles(), FakeRoles(), {"z": np.arange(5, 8)}).values.shape == (8, 2)
    assert alone.requests == [], "a set is identified by its content, not by its name"
