"""Evaluation of several sets: order, names, the start, and means over complete sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mindspeed_dpo.trainers.loop import LoopSchedule
from tests.support.runs import train
from tests.unit.trainers.fakes import EVAL_ROWS, FakeRoles, trainer
from tests.unit.workers.pairs import PAIRS, random_run, write_pairs


def test_several_sets_are_measured_one_by_one_under_their_names() -> None:
    roles, sets = (
        FakeRoles(eval_losses=[1.0, 2.0, 3.0, 4.0]),
        {"a": EVAL_ROWS, "b": np.array([6]), "none": np.array([])},
    )
    trainer(roles, LoopSchedule(0, 2, eval_interval=1), eval_rows=sets).fit()
    assert roles.done("evaluate") == [[1, 3], [6], [1, 3], [6]]
    losses = [
        {name: value for name, value in step.items() if name.startswith("eval/")} for step in roles.logged.values()
    ]
    assert losses == [{"eval/a/loss": 1.0, "eval/b/loss": 2.0}, {"eval/a/loss": 3.0, "eval/b/loss": 4.0}]
    assert [rows for rows in roles.done("ref") if rows in ([1, 3], [6])] == [[1, 3], [6]]


def test_an_evaluation_at_the_start_is_step_0_of_a_run_from_the_beginning_only() -> None:
    fresh, resumed, without = FakeRoles(), FakeRoles(), FakeRoles()
    trainer(fresh, LoopSchedule(0, 3, eval_interval=2, eval_at_start=True)).fit()
    trainer(resumed, LoopSchedule(1, 3, eval_interval=2, eval_at_start=True)).fit()
    trainer(without, LoopSchedule(0, 3, eval_interval=2)).fit()
    assert list(fresh.logged) == [0, 1, 2, 3] and fresh.logged[0].keys() == {"eval/loss", "timing/eval"}
    assert fresh.calls.index(("log", 0)) < fresh.calls.index(("update", 0, fresh.done("ref")[1]))
    assert list(resumed.logged) == [2, 3] and list(without.logged) == [1, 2, 3]


@pytest.mark.distributed
@pytest.mark.parametrize("reference", ["cached", "live"])
def test_each_set_is_measured_completely_with_its_own_reference(reference: str, tmp_path: Path) -> None:
    """A set of three and one of two pairs together are the set of all five."""
    paths = {name: write_pairs(tmp_path / name, pairs) for name, pairs in (("x", PAIRS[:3]), ("y", PAIRS[3:]))}
    written = ", ".join(f"{name}: '{path}'" for name, path in {**paths, "all": tmp_path / "pairs"}.items())
    run = random_run(
        tmp_path, train_iters=2, lr=1e-2, global_batch_size=2, eval_interval=1, eval_at_start=True,
        eval_data_path=f"{{{written}}}", reference=reference, output_dir=tmp_path / reference,
    )  # fmt: skip
    records = train(run)
    assert [record["step"] for record in records] == [0, 1, 2]
    assert records[0]["eval/x/loss"] == pytest.approx(np.log(2)) and records[2]["eval/x/loss"] != pytest.approx(
        np.log(2)
    )
    for record in records:
        for name in ("loss", "rewards/margins", "logps/chosen", "rewards/accuracies"):
            parts = [record[f"eval/{part}/{name}"] for part in ("x", "y")]
            assert record[f"eval/all/{name}"] == pytest.approx((3 * parts[0] + 2 * parts[1]) / 5, rel=1e-5), name
