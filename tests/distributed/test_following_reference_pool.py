"""TR-DPO with the reference on processes of its own: the same runs as beside the actor, saved and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.engine.checkpoints.checkpoint_verification import verify
from mindspeed_dpo.engine.checkpoints.saved_reference import REFERENCE_FOLDER
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import CheckpointError
from tests.config_effects.comparison import prompts_with_text
from tests.support.closeness import FULL, assert_same_run, is_of_the_clock
from tests.support.composing import load_quickly
from tests.support.runs import Layout, overrides, train
from tests.unit.workers.rollouts import online_run, save_policy, write_inputs

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

FOLLOWS: dict[str, Any] = {
    "reference": "live", "sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 0.3,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("following")
    write_inputs(folder)
    return folder


def run_of(
    folder: Path, output_dir: Path, layout: Layout = (1, 1, 1), ref: Layout | None = None, **settings: Any
) -> RunConfig:
    """An offline run from stored weights, with the reference in a pool of the given layout, or beside the actor."""
    tp, pp, dp = layout
    keys = {
        "tensor_model_parallel_size": tp, "pipeline_model_parallel_size": pp, "sequence_parallel": False,
        "data_path": folder / "pairs", "load": save_policy(folder / "hf", 2), "tensorboard": False, "report": False,
        "output_dir": output_dir, "train_iters": 6, "global_batch_size": 2, "micro_batch_size": 1, "lr": 1e-2,
        "lr_warmup_iters": 0, "save_interval": 3, "split": "60,40,0", "eval_interval": 1, "eval_iters": 1,
        "seq_length": 64, "tokenizer_name_or_path": folder / "tokenizer", **FOLLOWS, **settings,
    }  # fmt: skip
    given = [*overrides(keys), f"resource_pool.actor_rollout=[{tp * pp * dp}]"]
    if ref is not None:
        sizes = {"tensor_model_parallel_size": ref[0], "pipeline_model_parallel_size": ref[1]}
        given += [f"resource_pool.ref=[{ref[0] * ref[1] * ref[2]}]"]
        given += [f"+actor_rollout_ref.ref.{key}={value}" for key, value in sizes.items()]
    return load_quickly("offline_dpo_trainer_tiny", given)


def comparable(steps: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in step.items() if not is_of_the_clock(name)} for step in steps]


@pytest.fixture(scope="module")
def beside(folder: Path) -> list[dict[str, float]]:
    """What is measured with the reference in the actor's process."""
    return comparable(train(run_of(folder, folder / "beside")))


def test_in_a_process_of_its_own_it_is_the_same_reference_bit_by_bit(
    folder: Path, beside: list[dict[str, float]], tmp_path: Path
) -> None:
    apart = comparable(train(run_of(folder, tmp_path, ref=(1, 1, 1))))
    assert apart == beside
    # It did move.
    assert beside[2]["eval/rewards/margins"] != beside[1]["eval/rewards/margins"]


@pytest.mark.parametrize(
    ("layout", "ref"), [((2, 1, 1), (1, 1, 2)), ((1, 2, 1), (2, 1, 1)), ((1, 1, 2), (2, 1, 1))], ids=str
)
def test_any_layout_updates_any_other(
    layout: Layout, ref: Layout, folder: Path, beside: list[dict[str, float]], tmp_path: Path
) -> None:
    actual = train(run_of(folder, tmp_path, layout, ref))
    assert_same_run(actual, beside, FULL, ("loss", "rewards/margins", "eval/loss", "eval/rewards/margins"))


@pytest.mark.parametrize(
    ("saves", "resumes"),
    [((1, 1, 1), (1, 1, 1)), (None, (1, 1, 1)), ((1, 1, 1), None)],
    ids=["apart", "beside, then apart", "apart, then beside"],
)
def test_a_run_goes_on_with_the_reference_that_it_had(
    saves: Layout | None, resumes: Layout | None, folder: Path, beside: list[dict[str, float]], tmp_path: Path
) -> None:
    train(run_of(folder, tmp_path / "first", ref=saves, train_iters=3, lr_decay_iters=6))
    checkpoint = tmp_path / "first" / "checkpoints" / "iter_0000003"
    assert (checkpoint / REFERENCE_FOLDER).is_dir() is (saves is not None)
    verify(checkpoint)
    assert not list(checkpoint.parent.glob("*.partial"))
    resumed = train(run_of(folder, tmp_path / "on", ref=resumes, resume_from=checkpoint))
    assert comparable(resumed) == beside[3:]


def test_a_damaged_reference_is_noticed(folder: Path, tmp_path: Path) -> None:
    train(run_of(folder, tmp_path, ref=(1, 1, 1), train_iters=3, async_save=True))
    checkpoint = tmp_path / "checkpoints" / "iter_0000003"
    file = next((checkpoint / REFERENCE_FOLDER).glob("*.distcp"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{file.name} is damaged"):
        verify(checkpoint)


def test_online_it_follows_from_there_as_well(tmp_path: Path) -> None:
    keys: dict[str, Any] = {
        "data_path": prompts_with_text(), "reward_functions": ["tests.support.reward_functions.length"], "lr": 1e-2,
        "train_iters": 4, "lr_warmup_fraction": None, **FOLLOWS,
    }  # fmt: skip
    more = {"beside": (), "apart": ("resource_pool.ref=[1]",), "with the rollout": ("resource_pool.ref=rollout",)}
    runs = {
        name: comparable(train(online_run(tmp_path, (1, 1, 1), 1, 1, given, **keys, output_dir=tmp_path / name)))
        for name, given in more.items()
    }
    assert runs["apart"] == runs["with the rollout"] == runs["beside"]
