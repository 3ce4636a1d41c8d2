"""Where a run begins: every way to name a checkpoint, and what must not have changed since."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.controller.role_groups import ActorGroup
from mindspeed_dpo.data.datasets.sampler import sampling_of
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import METADATA, TRACKER, CheckpointError
from mindspeed_dpo.storage.process_lock import ProcessLock
from mindspeed_dpo.trainers.output_checks import check_output_is_unused
from mindspeed_dpo.trainers.output_lock import RUN_LOCK
from mindspeed_dpo.trainers.resuming.resume import find_resume_point, with_own_checkpoints, with_reference_of
from mindspeed_dpo.trainers.resuming.resume_checks import weights_identity
from tests.support.processes import PoolGroup
from tests.unit.trainers.saved_runs import NUM_ROWS, asking, write_checkpoint
from tests.unit.workers.pairs import random_run
from tests.unit.workers.rollouts import online_run


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    return random_run(tmp_path)


def test_a_run_that_names_nothing_starts_at_the_beginning(run: RunConfig) -> None:
    assert find_resume_point(run, NUM_ROWS) is None


@pytest.mark.parametrize("named", ["", "checkpoints", "checkpoints/iter_0000020"])
def test_resume_from_takes_the_newest_checkpoint_of_whatever_is_named(
    named: str, run: RunConfig, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path / "out" / "checkpoints", run, 10)
    newest = write_checkpoint(tmp_path / "out" / "checkpoints", run, 20)
    actual = find_resume_point(asking(run, resume_from=tmp_path / "out" / named, no_load_optim=True), NUM_ROWS)
    assert actual is not None
    assert (actual.folder, actual.iteration, actual.optimizer, actual.rng) == (newest, 20, True, True)
    assert actual.metadata["sampling"]["seed"] == run.loop.seed


def test_resume_from_may_name_an_older_iteration(run: RunConfig, tmp_path: Path) -> None:
    older = write_checkpoint(tmp_path, run, 10)
    write_checkpoint(tmp_path, run, 20)
    actual = find_resume_point(asking(run, resume_from=older), NUM_ROWS)
    assert actual is not None and actual.iteration == 10


def test_resume_from_wins_over_load_and_finetune(run: RunConfig, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "one", run, 10)
    write_checkpoint(tmp_path / "two", run, 20)
    actual = find_resume_point(
        asking(run, resume_from=tmp_path / "one", load=tmp_path / "two", finetune=True), NUM_ROWS
    )
    assert actual is not None and actual.folder == folder


@pytest.mark.parametrize("named", ["", "iter_0000010"])
@pytest.mark.parametrize(("no_optim", "no_rng"), [(False, False), (True, False), (False, True)])
def test_load_of_a_training_checkpoint_continues_with_the_parts_left(
    named: str, no_optim: bool, no_rng: bool, run: RunConfig, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path / "saved", run, 10)
    settings = asking(run, load=tmp_path / "saved" / named, no_load_optim=no_optim, no_load_rng=no_rng)
    actual = find_resume_point(settings, NUM_ROWS)
    assert actual is not None
    assert (actual.folder, actual.iteration, actual.optimizer, actual.rng) == (folder, 10, not no_optim, not no_rng)


def test_finetune_takes_the_weights_and_starts_at_the_beginning(run: RunConfig, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "saved", run, 10)
    assert find_resume_point(asking(run, load=tmp_path / "saved", finetune=True), NUM_ROWS) is None


@pytest.mark.parametrize("tracker", [None, "release", "7"])
def test_load_of_other_weights_starts_at_the_beginning(tracker: str | None, run: RunConfig, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    (folder / "iter_0000007" / "mp_rank_00").mkdir(parents=True)
    if tracker:
        (folder / TRACKER).write_text(tracker)
    assert find_resume_point(asking(run, load=folder), NUM_ROWS) is None


def test_resuming_where_there_is_no_checkpoint_says_so(run: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"{tmp_path} holds no checkpoint: {TRACKER} is missing"):
        find_resume_point(asking(run, resume_from=tmp_path), NUM_ROWS)


def test_resuming_a_damaged_checkpoint_says_what_is_missing(run: RunConfig, tmp_path: Path) -> None:
    (write_checkpoint(tmp_path, run, 10) / "common.pt").unlink()
    with pytest.raises(CheckpointError, match=r"iter_0000010 is not a complete checkpoint: common\.pt missing"):
        find_resume_point(asking(run, resume_from=tmp_path), NUM_ROWS)


@pytest.mark.parametrize(
    ("key", "before"), [("global_batch_size", 64), ("seed", 1), ("rows", 4)], ids=["batch size", "seed", "rows"]
)
@pytest.mark.parametrize("way", ["resume_from", "load"])
def test_another_data_order_is_refused_and_named(
    key: str, before: int, way: str, run: RunConfig, tmp_path: Path
) -> None:
    sampling = {**sampling_of(run, NUM_ROWS), key: before}
    write_checkpoint(tmp_path, run, 10, sampling=sampling)
    with pytest.raises(CheckpointError, match=rf"its data order would change: {key} was {before}, is \d+\. Restore"):
        find_resume_point(asking(run, **{way: tmp_path}), NUM_ROWS)


@pytest.mark.distributed
@pytest.mark.parametrize("changed", [{"no_shuffle": True}, {"split": "60,40,0"}], ids=["shuffling", "split"])
def test_whatever_else_changes_the_samples_is_refused_too(
    changed: dict[str, Any], run: RunConfig, tmp_path: Path
) -> None:
    group = PoolGroup(run, 1)
    group.build("actor")
    folder = ActorGroup(group).save(1, {"totals": {"num_tokens": 7}})
    actual = find_resume_point(asking(run, resume_from=folder), NUM_ROWS)
    assert actual is not None and actual.totals == {"num_tokens": 7}
    other = replace(run, actor=replace(run.actor, data=replace(run.actor.data, **changed)))
    with pytest.raises(CheckpointError):
        find_resume_point(asking(other, resume_from=folder), NUM_ROWS)


@pytest.mark.parametrize("way", ["resume_from", "load"])
def test_another_online_method_is_refused_and_another_loss_is_not(way: str, tmp_path: Path) -> None:
    run = online_run(tmp_path, (1, 1, 1), 1)
    write_checkpoint(tmp_path / "saved", run, 10, online_method="dpo")
    asked = asking(run, finetune=False, **{way: tmp_path / "saved"})
    other = replace(asked, actor=replace(asked.actor, pairing=replace(asked.actor.pairing, online_method="xpo")))
    with pytest.raises(
        CheckpointError, match=r"resumed: online_method was dpo, is xpo, .*\. Set online_method=dpo, or"
    ):
        find_resume_point(other, NUM_ROWS)
    loss = replace(asked.actor.loss, dpo_loss_type=("ipo",))
    assert find_resume_point(replace(asked, actor=replace(asked.actor, loss=loss)), NUM_ROWS) is not None
    # Checkpoints of earlier versions do not say.
    write_checkpoint(tmp_path / "saved", run, 20, online_method=None)
    assert find_resume_point(other, NUM_ROWS) is not None


@pytest.mark.parametrize(
    ("saved", "what"), [({"optimizer": False}, "optimizer"), ({"optimizer": False, "rng": False}, "optimizer and rng")]
)
def test_a_checkpoint_without_what_is_needed_is_refused_before_any_device(
    saved: dict[str, bool], what: str, run: RunConfig, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path, run, 10, **saved)
    with pytest.raises(CheckpointError, match=f"iter_0000010 was saved without {what} state, so it cannot be resumed"):
        find_resume_point(asking(run, resume_from=tmp_path), NUM_ROWS)
    actual = find_resume_point(asking(run, load=tmp_path, no_load_optim=True, no_load_rng=True), NUM_ROWS)
    assert actual is not None and not actual.optimizer and not actual.rng


def test_checkpoints_do_not_go_between_those_of_a_third_run(run: RunConfig, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "third", run, 5)
    folder = write_checkpoint(tmp_path / "saved", run, 10)
    with pytest.raises(
        CheckpointError, match=r"third contains the checkpoints of another run than .*iter_0000010; choose"
    ):
        find_resume_point(asking(run, resume_from=folder, save=tmp_path / "third"), NUM_ROWS)
    for save in ("saved", "new"):
        assert find_resume_point(asking(run, resume_from=folder, save=tmp_path / save), NUM_ROWS) is not None


def test_a_training_checkpoint_that_lost_its_description_is_not_taken_for_mere_weights(
    run: RunConfig, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path, run, 10)
    (folder / METADATA).unlink()
    (folder / "__0_0.distcp").touch()
    with pytest.raises(CheckpointError, match=f"iter_0000010 is not a complete checkpoint: {METADATA} missing"):
        find_resume_point(asking(run, load=tmp_path), NUM_ROWS)


def test_a_fresh_run_does_not_write_between_checkpoints_of_another(run: RunConfig, tmp_path: Path) -> None:
    run = asking(run, save=tmp_path / "saved")
    check_output_is_unused(run)
    write_checkpoint(tmp_path / "saved", run, 10)
    with pytest.raises(CheckpointError, match="contains the checkpoints of another run; resume that one with resume_"):
        check_output_is_unused(run)


def test_a_fresh_run_does_not_go_on_writing_the_metrics_of_another(run: RunConfig) -> None:
    metrics = Path(run.loop.output_dir) / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    metrics.touch()
    check_output_is_unused(run)
    metrics.write_text("{}\n")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl belongs to another run; choose another output_dir"):
        check_output_is_unused(run)


@pytest.mark.parametrize(
    "changed",
    [{"num_layers": 3}, {"rotary_base": 5e5}, {"norm_epsilon": 1e-3}],
    ids=["sizes", "rotary base", "epsilon"],
)
def test_another_model_is_refused(changed: dict[str, Any], run: RunConfig, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, run, 10, model=replace(run.actor.model, **changed).as_dict())
    with pytest.raises(CheckpointError, match=f"iter_0000010 cannot be resumed: .*{next(iter(changed))}"):
        find_resume_point(asking(run, resume_from=tmp_path), NUM_ROWS)


def test_a_resumed_run_keeps_its_reference(run: RunConfig, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "saved", run, 10, reference=str(tmp_path / "policy"))
    resumed = asking(run, resume_from=tmp_path / "saved")
    assert find_resume_point(with_ref(resumed, str(tmp_path / "policy")), NUM_ROWS) is not None
    with pytest.raises(CheckpointError, match=r"the reference was .*policy, is .*other"):
        find_resume_point(with_ref(resumed, str(tmp_path / "other")), NUM_ROWS)


def test_random_state_is_read_under_the_same_layout_only(run: RunConfig, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, run, 10, topology={"tp": 2, "pp": 1, "dp": 1}, rng=False)
    actual = find_resume_point(asking(run, resume_from=tmp_path), NUM_ROWS)
    assert actual is not None and actual.optimizer and not actual.rng


def test_a_run_does_not_write_into_the_output_folder_of_a_third(run: RunConfig, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    folder = write_checkpoint(earlier / "checkpoints", run, 10, output_dir=str(earlier))
    metrics = Path(run.loop.output_dir) / "metrics.jsonl"
    assert find_resume_point(asking(run, resume_from=folder), NUM_ROWS) is not None
    metrics.parent.mkdir(parents=True)
    metrics.touch()
    with pytest.raises(
        CheckpointError, match=r"contains the outputs of another run than .*iter_0000010; choose another output_"
    ):
        find_resume_point(asking(run, resume_from=folder), NUM_ROWS)


def test_a_run_loaded_from_a_trained_policy_keeps_the_reference_of_that_run(run: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "initial").mkdir()
    write_checkpoint(tmp_path / "saved", run, 10, reference=str(tmp_path / "initial"))
    loaded = as_own_reference(asking(run, load=tmp_path / "saved"))
    actual = find_resume_point(loaded, NUM_ROWS)
    assert actual is not None
    assert reference_of(with_reference_of(loaded, actual)) == str(tmp_path / "initial")
    assert with_reference_of(with_ref(loaded, str(tmp_path)), actual) == with_ref(loaded, str(tmp_path))


def test_a_reference_that_is_gone_is_named(run: RunConfig, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "saved", run, 10, reference=str(tmp_path / "gone"))
    loaded = as_own_reference(asking(run, load=tmp_path / "saved"))
    actual = find_resume_point(loaded, NUM_ROWS)
    assert actual is not None
    with pytest.raises(
        CheckpointError, match=r"was trained with the reference .*gone, which does not exist; set ref_model"
    ):
        with_reference_of(loaded, actual)


def test_latest_whole_passes_over_a_damaged_checkpoint(
    run: RunConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older = write_checkpoint(tmp_path / "out" / "checkpoints", run, 10)
    newest = write_checkpoint(tmp_path / "out" / "checkpoints", run, 20)
    (newest / "common.pt").write_bytes(b"0")
    damaged = asking(run, resume_from=tmp_path / "out")
    override = f"resume_from={tmp_path}/out/checkpoints actor_rollout_ref.actor_rollout.resume=latest_whole"
    with pytest.raises(CheckpointError, match=f"iter_0000020 is damaged: common.pt .*{override}"):
        find_resume_point(damaged, NUM_ROWS)
    for named in ("out", "out/checkpoints", "out/checkpoints/iter_0000020"):
        caplog.clear()
        found = find_resume_point(asking(run, resume_from=tmp_path / named, resume="latest_whole"), NUM_ROWS)
        assert found is not None and found.folder == older
        assert [line for line in caplog.messages if line.startswith("passed over") and "common.pt" in line]


def test_latest_whole_goes_on_with_the_runs_own_checkpoints_if_there_are_any(run: RunConfig, tmp_path: Path) -> None:
    own = asking(run, save=tmp_path / "own", resume="latest_whole")
    assert with_own_checkpoints(own) is own
    write_checkpoint(tmp_path / "own", run, 10)
    assert with_own_checkpoints(own).actor.checkpoint.resume_from == str(tmp_path / "own")
    assert with_own_checkpoints(asking(own, resume="latest")).actor.checkpoint.resume_from is None


def test_small_files_are_compared_with_their_digests_before_a_device_is_taken(run: RunConfig, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, run, 10, content=b"what was written")
    assert find_resume_point(asking(run, resume_from=tmp_path), NUM_ROWS) is not None
    (folder / ".metadata").write_bytes(b"what was writteN")
    with pytest.raises(CheckpointError, match=r"\.metadata is damaged: bytes 0 to 15 .*resume=latest_whole"):
        find_resume_point(asking(run, resume_from=tmp_path), NUM_ROWS)


def recorded_weights(tmp_path: Path, run: RunConfig, **changes: Any) -> RunConfig:
    """A run with a reference on disk, and its checkpoint, which records the contents of the weights."""
    with_weights = with_ref(run, str(write_weights(tmp_path / "reference", 1.0)))
    assert with_weights.ref is not None
    ref = replace(with_weights.ref, checkpoint=replace(with_weights.ref.checkpoint, random_init=False))
    with_weights = replace(with_weights, ref=ref)
    write_checkpoint(tmp_path / "saved", with_weights, 10, weights=weights_identity(with_weights), **changes)
    return asking(with_weights, resume_from=tmp_path / "saved")


def test_the_reference_is_known_by_its_content_and_not_by_its_path(run: RunConfig, tmp_path: Path) -> None:
    resumed = recorded_weights(tmp_path, run)
    assert find_resume_point(resumed, NUM_ROWS) is not None
    moved = with_ref(resumed, str(write_weights(tmp_path / "moved", 1.0)))
    assert find_resume_point(moved, NUM_ROWS) is not None
    save_file({"weight": torch.tensor([1.0, 1.5])}, tmp_path / "reference" / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"the reference was .*reference with the fingerprint \w+, is .*reference"
    ):
        find_resume_point(resumed, NUM_ROWS)


def test_an_earlier_checkpoint_compares_the_path_and_says_so(
    run: RunConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    write_checkpoint(tmp_path / "saved", run, 10, reference=str(tmp_path / "policy"))
    find_resume_point(with_ref(asking(run, resume_from=tmp_path / "saved"), str(tmp_path / "policy")), NUM_ROWS)
    assert len([line for line in caplog.messages if "the reference is compared by its path" in line]) == 1


def write_weights(folder: Path, value: float) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    save_file({"weight": torch.full((2,), value)}, folder / "model.safetensors")
    return folder


def with_ref(run: RunConfig, load: str | None) -> RunConfig:
    assert run.ref is not None
    return replace(run, ref=replace(run.ref, checkpoint=replace(run.ref.checkpoint, load=load)))


def as_own_reference(run: RunConfig) -> RunConfig:
    return with_ref(run, run.actor.checkpoint.load)


def reference_of(run: RunConfig) -> str | None:
    assert run.ref is not None
    return run.ref.checkpoint.load


def test_a_checkpoint_that_was_being_replaced_is_resumed_unless_a_run_is_writing_there(
    run: RunConfig, tmp_path: Path
) -> None:
    save = tmp_path / "out" / "checkpoints"
    folder = write_checkpoint(save, run, 4)
    aside = folder.rename(folder.with_name("iter_0000004.replaced"))
    with ProcessLock(save / RUN_LOCK), pytest.raises(CheckpointError, match=r"iter_0000004\.replaced is the earlier"):
        find_resume_point(asking(run, resume_from=save), NUM_ROWS)
    found = find_resume_point(asking(run, resume_from=save), NUM_ROWS)
    assert found is not None and found.folder == folder and not aside.exists()
