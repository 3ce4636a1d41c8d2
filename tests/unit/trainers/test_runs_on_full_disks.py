"""Whole runs without Ray, in places that cannot be written or are taken: one sentence, exit code 1, nothing lost."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.engine.checkpoints.checkpoint_verification import verify
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import latest
from mindspeed_dpo.processes.exit_codes import DONE, FAILED
from mindspeed_dpo.trainers import build
from mindspeed_dpo.trainers.output_lock import run_locks
from tests.support.metrics import read_metrics
from tests.support.processes import PoolGroup, pool
from tests.unit.trainers.saved_runs import asking
from tests.unit.workers.pairs import random_run

pytestmark = pytest.mark.distributed


@pytest.fixture(autouse=True)
def _on_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes of the tests instead of Ray's, started before any limit that they would inherit."""
    pool(1)

    @contextmanager
    def groups(config: RunConfig) -> Iterator[dict[str, PoolGroup]]:
        group = PoolGroup(config, 1)
        yield {"actor_rollout": group}
        group.leave()

    monkeypatch.setattr(build, "worker_groups", groups)


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """No file of this process, the driver, may grow beyond a size, as if its disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def run_of(folder: Path, **settings: object) -> RunConfig:
    return random_run(folder, save_interval=5, log_interval=1, **{"train_iters": 20, **settings})


@pytest.mark.parametrize("num_bytes", [40, 1500, 9000])
def test_a_full_disk_of_the_driver_ends_the_run_with_one_sentence(
    num_bytes: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path)
    capsys.readouterr()
    with largest_file(num_bytes):
        code = build.train(run)
    text = capsys.readouterr().err
    assert code == FAILED and "Traceback" not in text and "Logging error" not in text
    last = text.splitlines()[-1]
    assert "cannot be written: File too large; free space there (" in last and str(tmp_path) in last, text
    if num_bytes < 9000:
        return
    checkpoints = Path(run.actor.checkpoint.save)
    verify(latest(checkpoints))
    # With free space again the run goes on from there to its end, and no line of its metrics is missing.
    assert build.train(asking(run, resume="latest_whole")) == DONE
    text = capsys.readouterr().err
    assert "  taken: weights, optimizer state with its step count, random state" in text
    assert text.splitlines()[-1].endswith(f"done: all outputs of this run are in {run.loop.output_dir}")
    assert [line["step"] for line in read_metrics(Path(run.loop.output_dir, "metrics.jsonl"))] == list(range(1, 21))


def test_a_second_run_in_the_folder_is_refused_before_it_touches_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path, train_iters=2)
    capsys.readouterr()
    with run_locks(run):
        before = sorted(path for path in tmp_path.rglob("*"))
        assert build.train(run) == FAILED
        assert sorted(path for path in tmp_path.rglob("*")) == before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"error: output_dir={run.loop.output_dir} is in use by another run, process {os.getpid()} on "
    )


def test_what_cannot_be_written_is_said_before_a_process_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path)
    (tmp_path / "file").touch()
    loop = replace(run.loop, use_wandb=True, wandb_save_dir=str(tmp_path / "file" / "below"))
    monkeypatch.setattr(build, "worker_groups", lambda config: pytest.fail("a process was started"))
    assert build.train(replace(run, loop=loop)) == FAILED
    assert (
        "file/below cannot be written: Not a directory; set wandb_save_dir" in capsys.readouterr().err.splitlines()[-1]
    )
