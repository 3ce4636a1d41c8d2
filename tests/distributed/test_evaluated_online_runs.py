"""Online runs with evaluation: what is measured, against Hugging Face, and that training does not notice it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.trainers.reference_responses import FOLDER
from tests.config_effects.comparison import prompts_with_text
from tests.support.resuming import different_tensors, numbers
from tests.support.runs import train
from tests.unit.workers.rollouts import PROMPTS, online_run, save_policy

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

EVALUATED = {"eval_interval": 1, "eval_at_start": True}
PLACES: dict[str, tuple[int, dict[str, Any]]] = {
    "in place": (0, {}),
    "on devices of its own": (1, {"rollout_staleness": 1}),
    "with adapters": (0, {"lora_target_modules": "[all-linear]", "lora_r": 4}),
    "XPO": (0, {"online_method": "xpo", "n_samples_per_prompt": 2}),
    "reference that follows": (0, {"sync_ref_model": True, "ref_model_sync_steps": 2}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluated")


def run_of(folder: Path, output_dir: Path, own: int = 0, **settings: Any) -> RunConfig:
    keys = {
        "data_path": prompts_with_text(), "reward_functions": ["tests.support.reward_functions.length"], "lr": 1e-2,
        "global_batch_size": 2, "ppo_mini_batch_size": 2, "n_samples_per_prompt": 3, "train_iters": 4,
        "lr_warmup_fraction": None, "save_interval": 2, "split": "60,40,0", "output_dir": output_dir, **settings,
    }  # fmt: skip
    return online_run(folder, (1, 1, 1), 1, own, **keys)


def training_only(output_dir: Path) -> list[dict[str, float]]:
    steps = [
        {name: value for name, value in step.items() if not name.startswith("eval/")} for step in numbers(output_dir)
    ]
    return [step for step in steps if step["step"]]


@pytest.mark.parametrize("place", PLACES)
def test_training_is_the_same_with_and_without_evaluation(place: str, folder: Path, tmp_path: Path) -> None:
    own, settings = PLACES[place]
    train(run_of(folder, tmp_path / "without", own, **settings))
    with_evaluation = train(run_of(folder, tmp_path / "with", own, **settings, **EVALUATED))
    assert training_only(tmp_path / "with") == training_only(tmp_path / "without")
    assert different_tensors(tmp_path / "with", tmp_path / "without") == []
    assert [step["step"] for step in with_evaluation] == [0, 1, 2, 3, 4]
    # Before the first update every response ties with itself.
    assert with_evaluation[0]["eval/win_rate"] == 0.5
    scores = [step["eval/reward/score/mean"] for step in with_evaluation]
    assert len(set(scores)) > 1


def another_model(folder: Path) -> Path:
    """Save weights beside those of the policy that respond otherwise."""
    model = AutoModelForCausalLM.from_pretrained(save_policy(folder / "hf", 2), dtype=torch.float32)
    torch.manual_seed(7)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder / "reference")
    return folder / "reference"


def test_policy_and_another_reference_respond_as_in_hugging_face(folder: Path, tmp_path: Path) -> None:
    """The score is the first token of a response, so that it says which model has generated it."""
    reference = another_model(folder)
    keys = {"ref_model": reference, "reward_functions": ["tests.support.reward_functions.first_token"]}
    run = run_of(folder, tmp_path / "out", **keys, **EVALUATED, train_iters=1, eval_data_path=prompts_with_text())
    (start, _) = train(run)
    rows = {"split": [3, 4], "given": list(range(len(PROMPTS)))}
    policy, other = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (folder / "hf", reference)
    )
    for name, of_set in rows.items():
        with torch.no_grad():
            ours, theirs = (
                [int(model(torch.tensor([PROMPTS[row]])).logits[0, -1].argmax()) for row in of_set]
                for model in (policy, other)
            )
        assert start[f"eval/{name}/reward/score/mean"] == pytest.approx(sum(ours) / len(ours)), name
        won = sum((a > b) + 0.5 * (a == b) for a, b in zip(ours, theirs, strict=True)) / len(ours)
        assert start[f"eval/{name}/win_rate"] == pytest.approx(won), name


@pytest.mark.parametrize("keeps", [True, False], ids=["responses kept", "responses lost"])
def test_a_resumed_run_has_the_same_evaluations(keeps: bool, folder: Path, tmp_path: Path) -> None:
    alone = run_of(folder, tmp_path / "alone", 1, rollout_staleness=1, **EVALUATED, best_metric="eval/win_rate")
    train(alone)
    shutil.copytree(tmp_path / "alone", tmp_path / "resumed")
    if not keeps:
        shutil.rmtree(tmp_path / "resumed" / FOLDER)
    checkpoint = tmp_path / "resumed" / "checkpoints" / "iter_0000002"
    settings = {"rollout_staleness": 1, "best_metric": "eval/win_rate", "resume_from": checkpoint}
    train(run_of(folder, tmp_path / "resumed", 1, **settings, **EVALUATED))
    assert numbers(tmp_path / "resumed") == numbers(tmp_path / "alone")
    files = [tmp_path / name / FOLDER / "mindspeed_dpo.json" for name in ("alone", "resumed")]
    assert files[0].read_text() == files[1].read_text() if keeps else files[1].is_file()
