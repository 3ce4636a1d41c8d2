"""What a resumed run says: from where, what it took and left out, and each setting that is another one, once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.trainers.resuming.resume import ResumePoint, find_resume_point
from mindspeed_dpo.trainers.resuming.resume_report import changed_settings, resume_lines
from tests.unit.trainers.saved_runs import NUM_ROWS, asking, write_checkpoint
from tests.unit.workers.pairs import random_run


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    return random_run(tmp_path)


def point(run: RunConfig, tmp_path: Path, way: str = "resume_from", **changes: Any) -> tuple[RunConfig, ResumePoint]:
    recorded = {"settings": run.as_tree(), **changes}
    write_checkpoint(tmp_path / "saved", run, 2, **recorded)
    resumed = asking(run, **{way: tmp_path / "saved"})
    found = find_resume_point(resumed, NUM_ROWS)
    assert found is not None
    return resumed, found


def changing(run: RunConfig, **groups: dict[str, Any]) -> RunConfig:
    """The run with other settings of the actor, by group."""
    actor = replace(run.actor, **{name: replace(getattr(run.actor, name), **keys) for name, keys in groups.items()})
    return replace(run, actor=actor)


def test_the_same_settings_are_taken_as_a_whole(run: RunConfig, tmp_path: Path) -> None:
    assert resume_lines(*point(run, tmp_path)) == [
        f"resuming from {tmp_path}/saved/iter_0000002, after 2 of {run.loop.train_iters} steps",
        "  taken: weights, optimizer state with its step count, random state",
        "  left out: nothing",
        "  settings that differ: none",
    ]


def test_each_setting_with_an_influence_is_named_once(run: RunConfig, tmp_path: Path) -> None:
    resumed, found = point(run, tmp_path)
    other = changing(
        resumed,
        optimizer={"lr": 0.125, "adam_beta2": 0.5},
        loss={"dpo_beta": 0.7, "dpo_loss_type": ("ipo",)},
        precision={"bf16": True},
        checkpoint={"save_interval": 77, "keep_last_checkpoints": 3},
    )
    other = replace(other, loop=replace(other.loop, log_interval=9, output_dir="elsewhere", tensorboard=True))
    assert other.ref is not None
    other = replace(other, ref=replace(other.ref, precision=other.actor.precision))
    changed = changed_settings(other, found)
    assert changed is not None
    loss, optimizer = run.actor.loss, run.actor.optimizer
    assert set(changed) >= {
        f"lr was {optimizer.lr}, is 0.125",
        f"adam_beta2 was {optimizer.adam_beta2}, is 0.5",
        f"dpo_beta was {loss.dpo_beta}, is 0.7",
        "dpo_loss_type was [sigmoid], is [ipo]",
        "bf16 was false, is true",
    }
    assert len(changed) == len(set(changed)) and not [line for line in changed if "save" in line or "log_" in line]


def test_what_is_left_out_comes_with_its_reason(run: RunConfig, tmp_path: Path) -> None:
    resumed, found = point(run, tmp_path, way="load", topology={"tp": 2, "pp": 1, "dp": 1})
    lines = resume_lines(resumed, replace(found, optimizer=False))
    assert lines[2] == (
        "  left out: optimizer state (no_load_optim=true), random state (it belongs to another layout: tp was 2, is 1)"
    )


def test_a_part_that_was_not_saved_is_said_to_be_so(run: RunConfig, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "saved", run, 2, optimizer=False, rng=False)
    resumed = asking(run, load=tmp_path / "saved", no_load_optim=True, no_load_rng=True)
    found = find_resume_point(resumed, NUM_ROWS)
    assert found is not None
    assert resume_lines(resumed, found)[2] == "  left out: optimizer state (not saved), random state (not saved)"


def test_an_earlier_version_is_compared_with_its_settings_file(run: RunConfig, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "out" / "checkpoints", run, 2)
    resumed = asking(changing(run, optimizer={"lr": 0.125}), resume_from=tmp_path / "out")
    found = find_resume_point(resumed, NUM_ROWS)
    assert found is not None
    assert changed_settings(resumed, found) == [f"lr was {run.actor.optimizer.lr}, is 0.125"]
    (tmp_path / "out" / "config.yaml").unlink()
    assert resume_lines(resumed, found)[3].startswith("  settings: those of the earlier run are unknown")
