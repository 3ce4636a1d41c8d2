"""`ray_gpt.py` and runs that cannot be: a sentence and an exit code before Ray, or a device, is taken."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import ray

import ray_gpt
from tests.end_to_end.conftest import OwnRun
from tests.support.commands import Finished, call, command, training
from tests.support.damaged_files import change_config, lose_second_shard, lose_weights, shorten
from tests.support.runs import ACTOR, Layout

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

LAST = "iter_0000024"
METADATA = "mindspeed_dpo.json"
TRACKER = "latest_checkpointed_iteration.txt"


@dataclass(frozen=True)
class Bad:
    """A run that cannot be.

    Attributes:
        words: Of the error message.
        keys: Settings that differ; `{}` in a text stands for the damaged copy's folder.
        overrides: More of the command line.
        copied: Which of the run's folders is copied: model, weights, checkpoints or tokens.
        damage: What happens to the copy.
        layout: Processes.
        code: Exit code: 2 where the configuration has problems, 1 where what it names has.
    """

    words: tuple[str, ...]
    keys: dict[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    copied: str | None = None
    damage: Callable[[Path], object] | None = None
    layout: Layout = (2, 1, 1)
    code: int = 2


def damaged(part: str, damage: Callable[[Path], object] | None, *words: str, **keys: Any) -> Bad:
    """A run on a damaged copy of a part of the good one."""
    return Bad(words, keys, (), part, damage, code=1)


def without(*names: str) -> Callable[[Path], object]:
    """Take files out of the newest checkpoint."""
    return lambda folder: [(folder / LAST / name).unlink() for name in names]


def unfinish(folder: Path) -> None:
    """Checkpoints of a run that died while it wrote the first one."""
    (folder / LAST).rename(folder / f"{LAST}.partial")
    (folder / TRACKER).unlink()


BAD = {
    "unknown key": Bad(
        ("micro_batch_sise is not a known key", "did you mean micro_batch_size"), {}, (f"{ACTOR}.micro_batch_sise=3",)
    ),
    "unknown section": Bad(("did you mean training",), {}, ("trainning.lr=3",)),
    "unknown model": Bad(("model=tinny", "did you mean tiny"), {}, (f"{ACTOR}.model=tinny",)),
    "missing data": Bad(("data_path=nowhere", "create it with preprocess_data.py"), {"data_path": "nowhere"}),
    "missing weights": Bad(("load=nowhere does not exist",), {"load": "nowhere"}),
    "missing checkpoint": Bad(("resume_from=nowhere does not exist",), {"resume_from": "nowhere"}),
    "tensor size that does not divide": Bad(
        ("tensor_model_parallel_size=3 does not divide", "choose 1 or 2"), layout=(3, 1, 1)
    ),
    "pipeline size that does not divide": Bad(("does not divide num_layers=2", "choose 1 or 2"), layout=(1, 3, 1)),
    "batch that does not divide": Bad(("global_batch_size=8 is not a multiple of", "choose 12"), layout=(1, 1, 3)),
    "pool that does not divide": Bad(("[3] has 3 processes", "choose 2"), {}, ("resource_pool.actor_rollout=[3]",)),
    "shapes unlike the YAML's": Bad(
        ("embed_tokens.weight is [262, 64]", "[262, 128]"),
        {"load": "{}"},
        ("model.tiny.hidden_size=128",),
        copied="model",
        code=1,
    ),
    "layers unlike the YAML's": Bad(
        ("does not hold this 4-layer model",), {"load": "{}"}, ("model.tiny.num_layers=4",), copied="model", code=1
    ),
    "unknown family": damaged(
        "model", change_config(model_type="gptneox"), "'gptneox'", "not supported", "qwen2", load="{}"
    ),
    "no weights": damaged("model", lose_weights, "holds no model.safetensors", load="{}"),
    "missing shard": damaged("model", lose_second_shard, "lacks model-00002-of-00002.safetensors", load="{}"),
    "truncated weights": damaged(
        "model", lambda hf: shorten(hf / "model.safetensors"), "model.safetensors is damaged or truncated", load="{}"
    ),
    "truncated tokens": damaged(
        "tokens",
        lambda tokens: shorten(tokens / "pairs_packed_chosen_labels_document.bin"),
        "its index describes",
        "preprocess again",
        data_path="{}/pairs",
    ),
    "rows all too long": Bad(
        ("no row is fit for training: 0 of 320 rows used",), {"seq_length": 8, "truncation": "drop"}, code=1
    ),
    "data of another tokenizer": Bad(
        ("vocab_size=64", "another tokenizer", "preprocess it again"),
        {"load": None, "random_init": True},
        ("model.tiny.vocab_size=64",),
        code=1,
    ),
    "half-written checkpoint to resume": damaged(
        "checkpoints", without(".metadata"), f"{LAST} is not a complete checkpoint: .metadata missing", resume_from="{}"
    ),
    "checkpoint without its description": damaged(
        "checkpoints", without(METADATA), f"is not a complete checkpoint: {METADATA} missing", resume_from="{}"
    ),
    "checkpoint with a broken description": damaged(
        "checkpoints", lambda folder: shorten(folder / LAST / METADATA), f"{LAST}/{METADATA}", resume_from="{}"
    ),
    "no finished checkpoint": damaged("checkpoints", unfinish, "holds no checkpoint", TRACKER, resume_from="{}"),
    "half-written checkpoint to load": damaged(
        "checkpoints", without(".metadata"), "lacks .metadata", "the checkpoint is incomplete", load="{}"
    ),
    "nameless checkpoint to resume from": damaged(
        "checkpoints", without(METADATA), METADATA, load="{}", finetune=False, no_load_rng=True
    ),
    "converted weights to resume": damaged("weights", None, "is not a complete checkpoint", resume_from="{}"),
    "Hugging Face folder to resume": damaged("model", None, "holds no checkpoint", resume_from="{}"),
    "another batch size to resume": damaged(
        "checkpoints", None, "global_batch_size was 8, is 16", "data order", resume_from="{}", global_batch_size=16
    ),
}


@pytest.fixture
def ray_untouched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Calls that start Ray or connect to it."""
    calls: list[Any] = []

    def init(*args: Any, **options: Any) -> None:
        calls.append((args, options))
        raise ConnectionError("no Ray here")

    monkeypatch.setattr(ray, "init", init)
    return calls


@pytest.mark.parametrize("name", BAD)
def test_a_run_that_cannot_be_is_refused_before_ray(
    name: str, own_run: OwnRun, ray_untouched: list[Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = BAD[name]
    copy = prepare(bad, own_run, tmp_path / "copy")
    keys = {key: value.format(copy) if isinstance(value, str) else value for key, value in bad.keys.items()}
    arguments = training(bad.layout, **{**own_run.keys, "output_dir": tmp_path / "run", **keys})[1:]
    planned = call(ray_gpt.main, [*arguments, *bad.overrides, "plan=true"], capfd)
    assert not (tmp_path / "run").exists()
    finished = call(ray_gpt.main, [*arguments, *bad.overrides], capfd)
    assert ray_untouched == [], finished.text
    for one in (planned, finished):
        assert one.code == bad.code, one.text
        assert [word for word in bad.words if word not in one.text] == [], one.text
    assert_nothing_begun(tmp_path / "run")


def prepare(bad: Bad, own_run: OwnRun, copy: Path) -> Path:
    """Copy and damage what the run is to be given."""
    parts = {
        "model": own_run.model,
        "weights": own_run.weights,
        "checkpoints": own_run.output_dir / "checkpoints",
        "tokens": own_run.pairs.parent,
    }
    if bad.copied is not None:
        shutil.copytree(parts[bad.copied], copy)
        if bad.damage is not None:
            bad.damage(copy)
    return copy


def assert_nothing_begun(output_dir: Path) -> None:
    """Beside the settings and the log that says why, a refused run leaves nothing."""
    files = {str(path.relative_to(output_dir)) for path in output_dir.rglob("*") if path.is_file()}
    assert {name for name in files if not name.startswith("logs/")} <= {"config.yaml"}


def test_an_output_folder_that_cannot_be_is_refused(
    own_run: OwnRun, ray_untouched: list[Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    arguments = training((2, 1, 1), **{**own_run.keys, "output_dir": tmp_path / "file"})
    finished = call(ray_gpt.main, arguments[1:], capfd)
    assert finished.code in (1, 2) and "output_dir" in finished.text and ray_untouched == []


def test_a_refused_resume_leaves_the_run_as_it_was(
    own_run: OwnRun, ray_untouched: list[Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(own_run.output_dir, tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.parent.name != "logs"}
    arguments = training((2, 1, 1), **{**own_run.keys, "global_batch_size": 16, "resume_from": run})
    assert call(ray_gpt.main, arguments[1:], capfd).code == 1
    assert [path.name for path, content in before.items() if path.read_bytes() != content] == []


def run_on(ray_address: str, own_run: OwnRun, folder: Path, *overrides: str, **keys: Any) -> Finished:
    """The command on a running cluster, to its end."""
    arguments = training((2, 1, 1), **{**own_run.keys, "output_dir": folder, **keys})
    return command(*arguments, f"training.ray_address={ray_address}", *overrides)


def assert_one_sentence(finished: Finished, *words: str) -> None:
    """It failed, and the last line says why."""
    assert finished.code == 1, finished.text
    assert "Traceback" not in finished.text
    assert [word for word in words if word not in finished.text.splitlines()[-1]] == [], finished.text


def test_too_few_devices_are_reported_with_those_available(ray_address: str, own_run: OwnRun, tmp_path: Path) -> None:
    pool = "resource_pool.actor_rollout=[8]"
    finished = run_on(ray_address, own_run, tmp_path, pool, micro_batch_size=2)
    planned = run_on(ray_address, own_run, tmp_path, pool, "plan=true", micro_batch_size=2)
    for one in (finished, planned):
        assert_one_sentence(one, "too few devices", "actor_rollout: [8]", "has 4", "ray start")
    assert_nothing_begun(tmp_path)


def test_a_port_in_use_is_reported(ray_address: str, own_run: OwnRun, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        finished = run_on(ray_address, own_run, tmp_path, master_port=port)
    assert_one_sentence(finished, f"master_port={port} is in use", "choose another")


def test_a_checkpoint_with_a_truncated_tensor_file_is_reported(
    ray_address: str, own_run: OwnRun, tmp_path: Path
) -> None:
    checkpoints = shutil.copytree(own_run.output_dir / "checkpoints", tmp_path / "copy")
    for path in (checkpoints / LAST).glob("*.distcp"):
        shorten(path)
    keys = {"resume_from": checkpoints, "train_iters": 30}
    finished = run_on(ray_address, own_run, tmp_path / "run", **keys)
    assert_one_sentence(finished, LAST, "damaged")
