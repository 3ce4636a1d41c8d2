"""What has to hold on a device: operators, ln 2, one gradient in each layout, going on, the numbers of the CPU."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from mindspeed_dpo.doctor.probes import operators
from tests.support.commands import succeed, training
from tests.support.metrics import read_metrics
from tests.support.resuming import resume
from tests.support.runs import Layout

pytestmark = [pytest.mark.slow, pytest.mark.distributed]
Lines = dict[str, dict[str, Any]]
Metrics = list[dict[str, float]]


def trained(layout: Layout, device: str, made: dict[str, Any], folder: Path) -> Metrics:
    """The metrics of a run under a layout on a device."""
    keys = {**made, "output_dir": folder, "reference_cache_dir": folder / "cache", "device": device}
    succeed(*training(layout, **keys))
    return read_metrics(folder / "metrics.jsonl")


@pytest.fixture(scope="module")
def alone(device: str, made: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Metrics]:
    """A run on one device."""
    folder = tmp_path_factory.mktemp("alone")
    return folder, trained((1, 1, 1), device, made, folder)


@pytest.mark.parametrize("operator", sorted({case.operator for case in operators.CASES}))
def test_operators_meet_their_definitions(operator: str, lines: Lines) -> None:
    actual = [one for name, one in lines.items() if name.split()[0] == operator]
    assert actual and all(one["verdict"] == "ok" for one in actual), actual


def test_two_devices_add_up(lines: Lines) -> None:
    if lines["all-reduce"]["verdict"] == "not here":
        pytest.skip(lines["all-reduce"]["detail"])
    assert lines["all-reduce"]["verdict"] == "ok", lines["all-reduce"]


def test_the_first_loss_is_ln_2(alone: tuple[Path, Metrics]) -> None:
    _, metrics = alone
    assert metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert metrics[-1]["loss"] < metrics[0]["loss"]


@pytest.mark.parametrize("layout", [(2, 1, 1), (1, 2, 1), (1, 1, 2)], ids=["TP2", "PP2", "DP2"])
def test_a_layout_changes_neither_loss_nor_gradient(
    layout: Layout, device: str, made: dict[str, Any], alone: tuple[Path, Metrics], lines: Lines, tmp_path: Path
) -> None:
    if lines["all-reduce"]["verdict"] == "not here":
        pytest.skip(lines["all-reduce"]["detail"])
    _, expected = alone
    actual = trained(layout, device, made, tmp_path)
    for key in ("loss", "grad_norm"):
        assert [row[key] for row in actual] == pytest.approx([row[key] for row in expected], rel=2e-4), key


def test_a_run_goes_on_from_a_checkpoint_with_the_same_numbers(
    device: str, made: dict[str, Any], alone: tuple[Path, Metrics], tmp_path: Path
) -> None:
    _, expected = alone
    first = {**made, "output_dir": tmp_path, "reference_cache_dir": tmp_path / "cache", "device": device}
    succeed(*training((1, 1, 1), **{**first, "train_iters": 2}))
    succeed(*resume(training((1, 1, 1), **first), tmp_path))
    actual = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["loss"] for row in actual] == pytest.approx([row["loss"] for row in expected], rel=1e-6)


def test_the_numbers_are_those_of_the_cpu(
    device: str, made: dict[str, Any], alone: tuple[Path, Metrics], tmp_path: Path
) -> None:
    _, actual = alone
    expected = trained((1, 1, 1), "cpu", made, tmp_path)
    # Public ports to NPUs accept a mean error of 2 %.
    for key in ("loss", "grad_norm"):
        assert [row[key] for row in actual] == pytest.approx([row[key] for row in expected], rel=0.02), key
