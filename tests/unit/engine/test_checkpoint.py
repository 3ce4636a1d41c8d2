"""Checkpoints: exact on the same layout, equal under every other one, parts only where they were saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mindspeed_dpo.engine.checkpoints.checkpoint_state import CheckpointParts
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import (
    FORMAT,
    METADATA,
    iteration_dir,
    latest,
    read_metadata,
)
from tests.support.processes import pool
from tests.unit.engine import checkpoint_jobs
from tests.unit.engine.engine_jobs import MODEL, Setup

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

KINDS = ("fp32_param", "exp_avg", "exp_avg_sq")
PADDED = ("word_embeddings.weight", "output_layer.weight")


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("processes", "layout"),
    [
        (1, {}),
        (2, {"tp": 2}),
        (2, {"distributed_optimizer": True}),
        (2, {"pp": 2}),
        (2, {"cp": 2}),
        (2, {"pp": 2, "layers": 4, "virtual": 1}),
    ],
    ids=["one process", "TP2", "DP2 with sharded optimizer", "PP2", "CP2", "virtual stages"],
)
def test_a_run_that_stops_and_goes_on_ends_with_the_same_bits(
    bf16: bool, processes: int, layout: dict[str, int], tmp_path: Path
) -> None:
    setup = Setup(bf16=bf16, **layout)
    pool(processes).run(checkpoint_jobs.norms_and_weights, setup, 4, tmp_path / "straight")
    pool(processes).run(checkpoint_jobs.norms_and_weights, setup, 2, tmp_path / "stopped")
    counts = pool(processes).run(checkpoint_jobs.go_on, setup, tmp_path / "stopped", 2, 2, tmp_path / "stopped")
    assert all(steps and set(steps) == {4.0} for steps in counts)
    equal(tensors(tmp_path / "stopped", 4), tensors(tmp_path / "straight", 4))


LAYOUTS = {
    "one process": (1, {}),
    "TP2": (2, {"tp": 2}),
    "PP2": (2, {"pp": 2}),
    "DP2 sharded": (2, {"distributed_optimizer": True}),
    "DP2": (2, {}),
    "TP2 PP2": (4, {"tp": 2, "pp": 2}),
    "TP2 DP2 sharded": (4, {"tp": 2, "distributed_optimizer": True}),
    "CP2 sharded": (2, {"cp": 2, "distributed_optimizer": True}),
    "TP2 CP2": (4, {"tp": 2, "cp": 2}),
    "four layers": (1, {"layers": 4}),
    "PP2 of four layers": (2, {"pp": 2, "layers": 4}),
    "virtual stages": (2, {"pp": 2, "layers": 4, "virtual": 1}),
    "virtual stages, TP2": (4, {"tp": 2, "pp": 2, "layers": 4, "virtual": 1}),
    "virtual stages, DP2 sharded": (4, {"pp": 2, "layers": 4, "virtual": 1, "distributed_optimizer": True}),
}
CHANGES = [
    ("one process", "TP2", False),
    ("TP2", "one process", False),
    ("one process", "TP2 PP2", True),
    ("TP2 PP2", "DP2 sharded", False),
    ("DP2 sharded", "PP2", True),
    ("TP2 DP2 sharded", "one process", True),
    ("DP2", "TP2 DP2 sharded", False),
    ("CP2 sharded", "TP2", True),
    ("PP2", "CP2 sharded", False),
    ("TP2 CP2", "DP2 sharded", False),
    ("virtual stages", "PP2 of four layers", False),
    ("PP2 of four layers", "virtual stages, TP2", True),
    ("virtual stages, DP2 sharded", "four layers", True),
    ("four layers", "virtual stages, DP2 sharded", False),
]


@pytest.mark.parametrize(("before", "after", "bf16"), CHANGES)
def test_weights_and_optimizer_state_move_to_any_layout_exactly(
    before: str, after: str, bf16: bool, tmp_path: Path
) -> None:
    (processes, layout), (others, other) = LAYOUTS[before], LAYOUTS[after]
    pool(processes).run(checkpoint_jobs.norms_and_weights, Setup(bf16=bf16, **layout), 2, tmp_path / "before")
    counts = pool(others).run(
        checkpoint_jobs.resave, Setup(bf16=bf16, **other), tmp_path / "before", 2, tmp_path / "after"
    )
    assert all(steps and set(steps) == {2.0} for steps in counts)
    equal(tensors(tmp_path / "after", 2), tensors(tmp_path / "before", 2))


def test_a_larger_padding_is_filled_with_zeros(tmp_path: Path) -> None:
    pool(1).run(checkpoint_jobs.norms_and_weights, Setup(), 2, tmp_path / "before")
    pool(2).run(checkpoint_jobs.resave, Setup(tp=2), tmp_path / "before", 2, tmp_path / "after")
    actual = checkpoint_jobs.read_tensors(iteration_dir(tmp_path / "after", 2))
    padded = [name for name in actual if name.endswith(PADDED)]
    assert len(padded) == 2 * (1 + len(KINDS))
    assert all(actual[name].shape[0] == 22 and not actual[name][21:].any() for name in padded)


def test_every_weight_has_a_master_and_two_moments_in_float32(tmp_path: Path) -> None:
    pool(1).run(checkpoint_jobs.norms_and_weights, Setup(bf16=True), 2, tmp_path)
    actual = tensors(tmp_path, 2)
    weights = {name for name in actual if not name.startswith("optimizer.")}
    assert {actual[name].dtype for name in weights} == {torch.bfloat16}
    assert set(actual) == weights | {f"optimizer.state.{kind}.{name}" for kind in KINDS for name in weights}
    for name in weights:
        master = actual[f"optimizer.state.fp32_param.{name}"]
        assert master.dtype == torch.float32
        assert torch.equal(master.to(torch.bfloat16), actual[name]), name
        assert actual[f"optimizer.state.exp_avg_sq.{name}"].gt(0).any(), name


@pytest.mark.parametrize(
    ("saved", "what"),
    [
        (CheckpointParts(optimizer=False), "optimizer"),
        (CheckpointParts(rng=False), "rng"),
        (CheckpointParts(optimizer=False, rng=False), "optimizer and rng"),
    ],
    ids=["optimizer", "rng", "both"],
)
def test_a_part_that_was_not_saved_is_named(saved: CheckpointParts, what: str, tmp_path: Path) -> None:
    (sentence,) = pool(1).run(checkpoint_jobs.missing_part, tmp_path, saved, CheckpointParts())
    assert sentence == f"{tmp_path / 'iter_0000001'} was saved without {what} state"
    assert pool(1).run(checkpoint_jobs.missing_part, tmp_path, saved, saved) == ["no error"]


def test_random_numbers_go_on_where_they_stopped(tmp_path: Path) -> None:
    ((expected, actual),) = pool(1).run(checkpoint_jobs.random_numbers, tmp_path)
    assert torch.equal(actual, expected)


def test_taking_the_weights_alone_takes_them_into_the_master_values_too(tmp_path: Path) -> None:
    ((saved, actual),) = pool(1).run(checkpoint_jobs.weights_alone, tmp_path, 2)
    assert all(torch.equal(actual[name], saved[name]) for name in saved)


def test_what_a_save_says_about_itself_can_be_read(tmp_path: Path) -> None:
    pool(1).run(checkpoint_jobs.norms_and_weights, Setup(), 2, tmp_path)
    folder = latest(tmp_path)
    assert folder == tmp_path / "iter_0000002"
    said = read_metadata(folder)
    files, digests = said.pop("files"), said.pop("digests")
    assert said.pop("xxh3_64") and digests.keys() == files.keys()
    assert said == {"format": FORMAT, "optimizer": True, "rng": True, "iteration": 2, "model": MODEL.as_dict()}
    assert {path.name: path.stat().st_size for path in folder.iterdir() if path.name != METADATA} == files


def test_what_a_killed_save_left_is_replaced(tmp_path: Path) -> None:
    partial = tmp_path / "iter_0000002.partial"
    partial.mkdir()
    (partial / "__0_0.distcp").write_bytes(b"half a file")
    (partial / "stray").write_bytes(b"")
    (tmp_path / "iter_0000017.partial").mkdir()
    pool(1).run(checkpoint_jobs.norms_and_weights, Setup(), 2, tmp_path)
    assert list(tmp_path.glob("*.partial")) == []
    assert not (tmp_path / "iter_0000002" / "stray").exists()
    assert tensors(tmp_path, 2)


def tensors(folder: Path, iteration: int) -> dict[str, Tensor]:
    """The tensors of a checkpoint without the padding of the vocabulary."""
    actual = checkpoint_jobs.read_tensors(iteration_dir(folder, iteration))
    return {name: value[: MODEL.vocab_size] if name.endswith(PADDED) else value for name, value in actual.items()}


def equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(actual) == set(expected)
    assert len(expected) == 10 * (1 + len(KINDS))
    differing = [name for name, value in expected.items() if not torch.equal(actual[name], value)]
    assert not differing
