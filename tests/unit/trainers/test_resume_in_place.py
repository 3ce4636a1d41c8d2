"""Where a resumed run writes: in the folder of the run it continues, unless set otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.trainers.resuming.resume import with_resumed_output_dir
from tests.unit.trainers.saved_runs import asking, write_checkpoint
from tests.unit.workers.pairs import random_run


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    return random_run(tmp_path)


@pytest.mark.parametrize("named", ["", "checkpoints", "checkpoints/iter_0000010"])
def test_a_resumed_run_goes_on_in_its_own_folder(named: str, run: RunConfig, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    write_checkpoint(earlier / "checkpoints", run, 10)
    unnamed = replace(asking(run, resume_from=earlier / named), origins={})
    actual = with_resumed_output_dir(unnamed)
    assert actual.loop.output_dir == str(earlier)
    assert actual.actor.checkpoint.save == str(earlier / "checkpoints")
    assert replace(actual, loop=run.loop) == asking(replace(unnamed, loop=run.loop), save=earlier / "checkpoints")


def test_a_folder_that_was_configured_is_used(run: RunConfig, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "earlier" / "checkpoints", run, 10)
    assert "loop.output_dir" in run.origins
    resumed = asking(run, resume_from=tmp_path / "earlier")
    assert with_resumed_output_dir(resumed) is resumed


def test_checkpoints_that_were_configured_elsewhere_stay_there(run: RunConfig, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "earlier" / "checkpoints", run, 10)
    origin = run.origins["loop.output_dir"]
    resumed = replace(asking(run, resume_from=tmp_path / "earlier", save="mine"), origins={"actor.save": origin})
    actual = with_resumed_output_dir(resumed)
    assert (actual.loop.output_dir, actual.actor.checkpoint.save) == (str(tmp_path / "earlier"), "mine")


def test_checkpoints_apart_from_their_run_lead_to_its_folder_and_stay_where_they_are(
    run: RunConfig, tmp_path: Path
) -> None:
    (tmp_path / "earlier").mkdir()
    write_checkpoint(tmp_path / "apart", run, 10, output_dir=str(tmp_path / "earlier"))
    actual = with_resumed_output_dir(replace(asking(run, resume_from=tmp_path / "apart"), origins={}))
    assert (actual.loop.output_dir, actual.actor.checkpoint.save) == (
        str(tmp_path / "earlier"),
        str(tmp_path / "apart"),
    )


def test_a_folder_that_was_moved_is_located_at_its_new_path(run: RunConfig, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "moved" / "checkpoints", run, 10, output_dir=str(tmp_path / "before"))
    actual = with_resumed_output_dir(replace(asking(run, resume_from=tmp_path / "moved"), origins={}))
    assert actual.loop.output_dir == str(tmp_path / "moved")


def test_nothing_moves_where_the_folder_is_gone_or_nothing_is_resumed(run: RunConfig, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "apart", run, 10, output_dir=str(tmp_path / "gone"))
    for settings in (asking(run, resume_from=tmp_path / "apart"), run):
        settings = replace(settings, origins={})
        assert with_resumed_output_dir(settings) is settings
