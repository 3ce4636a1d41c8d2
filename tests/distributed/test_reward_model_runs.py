"""What a run that trains a reward model leaves: it goes on exactly, scores online, and its adapters are PEFT's."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

import convert_ckpt
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.controller.role_groups import ActorGroup
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import CheckpointError
from mindspeed_dpo.trainers.run_inputs import open_inputs
from mindspeed_dpo.weights import WeightsError, open_weights
from tests.support.adapters import TINY_MODULES, save_tiny_policy
from tests.support.metrics import read_metrics
from tests.support.processes import PoolGroup
from tests.support.runs import Layout, train
from tests.unit.workers.pairs import PAIRS, random_run

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

ADAPTERS = {"lora_target_modules": list(TINY_MODULES), "lora_r": 4, "lora_alpha": 8}
ROWS = np.arange(5)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_policy(tmp_path_factory.mktemp("policy"))


def reward_run(folder: Path, policy: Path, layout: Layout = (1, 1, 1), **settings: Any) -> RunConfig:
    folder.mkdir(exist_ok=True)
    keys = {"stage": "rm", "random_init": False, "load": policy, "finetune": True, "lr": 1e-2, "save_interval": 2}
    return random_run(folder, layout, **{**keys, **settings})


def scores_of(model: Any) -> list[list[float]]:
    with torch.no_grad():
        return [[model(torch.tensor([p + r])).logits.item() for r in responses] for p, *responses in PAIRS]


def margins(scores: list[list[float]]) -> float:
    return float(np.mean([chosen - rejected for chosen, rejected in scores]))


@pytest.mark.parametrize(
    ("layout", "settings"),
    [((1, 1, 2), {"bf16": True, "use_distributed_optimizer": True}), ((2, 1, 1), ADAPTERS)],
    ids=["bfloat16 with a head in float32, sharded optimizer", "adapters and head, TP2"],
)
def test_a_resumed_run_ends_with_the_same_bits(
    layout: Layout, settings: dict[str, Any], policy: Path, tmp_path: Path
) -> None:
    train(reward_run(tmp_path / "one", policy, layout, **settings))
    train(reward_run(tmp_path / "two", policy, layout, train_iters=2, lr_decay_iters=4, **settings))
    resumed = reward_run(tmp_path / "two", policy, layout, resume_from=tmp_path / "two" / "out", **settings)
    train(resumed)
    one, two = (read_metrics(tmp_path / name / "out" / "metrics.jsonl")[-1] for name in ("one", "two"))
    assert {key: one[key] for key in ("step", "loss", "grad_norm", "rewards/margins")} == {
        key: two[key] for key in ("step", "loss", "grad_norm", "rewards/margins")
    }
    weights = [open_weights(tmp_path / name / "out" / "checkpoints") for name in ("one", "two")]
    first, second = (dict(source.hf_tensors(source.model_config())) for source in weights)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert first["score.weight"].dtype == torch.float32 and all(source.is_reward_model for source in weights)


def test_adapters_and_their_head_are_those_of_peft(policy: Path, tmp_path: Path) -> None:
    run = reward_run(tmp_path, policy, **ADAPTERS)
    train(run)
    saved = tmp_path / "out" / "checkpoints"
    untrained = torch.empty(1, 64).normal_(0.0, 0.02, generator=torch.Generator().manual_seed(run.loop.seed))
    head = load_file(saved / "iter_0000004" / "adapter" / "adapter_model.safetensors")["base_model.model.score.weight"]
    assert (head - untrained).abs().mean() > 1e-3
    to_hf = ["--save-model-type=hf", "--orm", f"--load-dir={saved}", f"--save-dir={tmp_path / 'merged'}"]
    assert convert_ckpt.main(to_hf) == 0
    merged = scores_of(AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", dtype=torch.float32))
    base = AutoModelForSequenceClassification.from_pretrained(policy, num_labels=1, dtype=torch.float32)
    by_peft = scores_of(PeftModel.from_pretrained(base, saved / "iter_0000004" / "adapter").eval())
    np.testing.assert_allclose(merged, by_peft, atol=1e-5)
    # What PEFT saves is what is read: as the start of another run, which evaluates it before its first step.
    PeftModel.from_pretrained(base, saved / "iter_0000004" / "adapter").save_pretrained(tmp_path / "peft")
    run = reward_run(tmp_path / "next", policy, **ADAPTERS, lora_load=tmp_path / "peft")
    group = PoolGroup(run, 1)
    group.build("actor")
    evaluated = ActorGroup(group).evaluate(ROWS, np.zeros((5, 2)))
    assert evaluated["eval/rewards/margins"] == pytest.approx(margins(by_peft), abs=1e-5)
    with pytest.raises(WeightsError, match="is an adapter of a reward model, with a score head"):
        open_inputs(reward_run(tmp_path / "dpo", policy, **ADAPTERS, lora_load=tmp_path / "peft", stage="dpo"))


def test_reward_models_and_policies_do_not_continue_each_other(policy: Path, tmp_path: Path) -> None:
    train(reward_run(tmp_path, policy, train_iters=2))
    saved = tmp_path / "out" / "checkpoints"
    with pytest.raises(WeightsError, match="is a reward model, which cannot generate"):
        open_inputs(reward_run(tmp_path / "a", saved, stage="dpo"))
    with pytest.raises(CheckpointError, match="trained a reward model; set it as load of section reward"):
        open_inputs(reward_run(tmp_path / "a", policy, stage="dpo", resume_from=saved))
    # As the start of another reward model its head is kept.
    again = train(reward_run(tmp_path / "b", saved, train_iters=1, eval_interval=1, eval_data_path=tmp_path / "pairs"))
    before = read_metrics(tmp_path / "out" / "metrics.jsonl")
    assert again[0]["loss"] < before[0]["loss"]
    train(reward_run(tmp_path / "c", policy, train_iters=1, stage="dpo"))
    with pytest.raises(CheckpointError, match="set it as load with finetune=true to train a reward model"):
        open_inputs(reward_run(tmp_path / "d", tmp_path / "c" / "out" / "checkpoints", finetune=False))


def test_an_adapter_that_lacks_the_head_it_names_is_refused(policy: Path, tmp_path: Path) -> None:
    train(reward_run(tmp_path, policy, train_iters=1, save_interval=None, **ADAPTERS))
    folder = tmp_path / "peft"
    shutil.copytree(tmp_path / "out" / "checkpoints" / "iter_0000001" / "adapter", folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    del tensors["base_model.model.score.weight"]
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(WeightsError, match=r"modules_to_save=\['score'\], but the weights hold no score.weight"):
        open_inputs(reward_run(tmp_path / "next", policy, **ADAPTERS, lora_load=folder))
