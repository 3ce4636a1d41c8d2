"""Runs with `async_save` over pools of processes: the same checkpoints, and a run that resumes where one was lost."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.engine.checkpoints import async_checkpoint
from mindspeed_dpo.engine.checkpoints.checkpoint_retention import saved_iterations
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import iteration_dir
from mindspeed_dpo.trainers.build import train_on
from mindspeed_dpo.trainers.run_inputs import open_inputs
from mindspeed_dpo.workers.colocated_roles import ColocatedRoles
from tests.support.processes import ACTOR, PoolGroup
from tests.support.resuming import numbers
from tests.support.runs import Layout, train
from tests.unit.workers.pairs import random_run

pytestmark = pytest.mark.distributed

STEPS = 4


def saving_run(folder: Path, output_dir: Path, layout: Layout = (1, 1, 1), **settings: object) -> RunConfig:
    keys = {"train_iters": STEPS, "save_interval": 1, "lr": 1e-2, "output_dir": output_dir, **settings}
    return random_run(folder, layout, **keys)


def contents(output_dir: Path, iteration: int) -> dict[str, bytes]:
    """The files that hold state."""
    folder = iteration_dir(output_dir / "checkpoints", iteration)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".distcp", ".pt")}


@pytest.mark.parametrize("layout", [(1, 1, 1), (1, 1, 2)], ids=str)
def test_a_run_that_saves_in_the_background_writes_the_same_bytes(layout: Layout, tmp_path: Path) -> None:
    for name, async_save in (("waiting", False), ("going on", True)):
        keep = {"keep_last_checkpoints": 2, "async_save": async_save, "use_distributed_optimizer": layout[2] > 1}
        train(saving_run(tmp_path, tmp_path / name, layout, **keep))
    one, other = tmp_path / "waiting", tmp_path / "going on"
    assert numbers(one) == numbers(other)
    for output_dir in (one, other):
        assert saved_iterations(output_dir / "checkpoints") == [STEPS - 1, STEPS]
        assert not list((output_dir / "checkpoints").glob("*.partial"))
    for iteration in (STEPS - 1, STEPS):
        assert contents(one, iteration) and contents(one, iteration) == contents(other, iteration)


def break_writing(colocated: ColocatedRoles, iteration: int) -> None:
    """No file of one checkpoint can be written by this process any more."""
    write = async_checkpoint.write_file

    def broken(path: Path, content: io.BytesIO) -> None:
        if path.parent.name == f"iter_{iteration:07d}.partial":
            raise OSError(28, "No space left on device")
        write(path, content)

    async_checkpoint.write_file = broken


def test_a_save_that_fails_ends_the_run_and_the_next_one_goes_on_from_the_one_before(tmp_path: Path) -> None:
    alone, lost = tmp_path / "alone", tmp_path / "lost"
    train(saving_run(tmp_path, alone))
    run = saving_run(tmp_path, lost, async_save=True)
    group = PoolGroup(run, 1)
    group.inspect(break_writing, 3)
    with pytest.raises(AssertionError, match=r"iter_0000003 cannot be written: No space left on device"):
        train_on(open_inputs(run), {ACTOR: group})
    checkpoints = lost / "checkpoints"
    assert saved_iterations(checkpoints) == [1, 2] and (checkpoints / "iter_0000003.partial").is_dir()
    train(saving_run(tmp_path, lost, async_save=True, resume_from=lost))
    assert numbers(lost) == numbers(alone) and contents(lost, STEPS) == contents(alone, STEPS)
    assert not list(checkpoints.glob("*.partial"))
