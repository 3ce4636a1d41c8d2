"""Losses and learning rates against the numbers TRL recorded."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from mindspeed_dpo.algorithms.objective import PreferenceObjective
from mindspeed_dpo.algorithms.schedule import LearningRateSettings, lr_at
from tests.support.oracle import require

LOSS_CASES = [
    "sigmoid", "sigmoid_conversational", "sigmoid_trunc", "sigmoid_precompute", "hinge", "ipo", "sigmoid_norm",
    "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down",
]  # fmt: skip
PAIR_METRICS = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
)


def recorded(case: str) -> dict:
    return json.loads(require("oracle", "cases", f"{case}.json").read_text())


def columns(micro_batch: dict, prefix: str = "") -> Tensor:
    return torch.tensor([micro_batch[f"{prefix}chosen_logps"], micro_batch[f"{prefix}rejected_logps"]]).T


def response_lengths(micro_batch: dict) -> Tensor:
    chosen, rejected = torch.tensor(micro_batch["completion_mask"]).sum(1).chunk(2)
    return torch.stack([chosen, rejected], 1)


def objective_of(case: dict) -> PreferenceObjective:
    knobs = case["knobs"]
    loss_type, smoothing = knobs["loss_type"][0], knobs["label_smoothing"]
    # TRL accepts smoothing where it has no effect; here that is an error.
    used = smoothing if loss_type in ("robust", "exo_pair") else 0.0
    return PreferenceObjective(loss_type=loss_type, beta=knobs["beta"], label_smoothing=used)


@pytest.mark.parametrize("name", LOSS_CASES)
def test_recorded_losses_follow_from_recorded_log_probabilities(name: str) -> None:
    case = recorded(name)
    for micro_batch in case["micro_batches"]:
        result = objective_of(case)(columns(micro_batch), response_lengths(micro_batch), columns(micro_batch, "ref_"))
        expected = micro_batch["loss"]
        assert abs(result.losses.mean().item() - expected) / max(1, abs(expected)) < 2e-7


@pytest.mark.parametrize("name", LOSS_CASES)
def test_recorded_metrics_of_a_step_are_means_over_its_pairs(name: str) -> None:
    case = recorded(name)
    for step, logged in enumerate(case["steps"]):
        parts = [m for m in case["micro_batches"] if m["step"] == step]
        joined = [torch.cat([part(m) for m in parts]) for part in (columns, response_lengths)]
        ref = torch.cat([columns(m, "ref_") for m in parts])
        means = objective_of(case)(*joined, ref).sums.means()
        assert {key: means[key] for key in PAIR_METRICS} == pytest.approx(
            {key: logged[key] for key in PAIR_METRICS}, rel=1e-6, abs=2e-6
        )


@pytest.mark.parametrize("name", LOSS_CASES)
def test_recorded_learning_rates_follow_from_the_schedule(name: str) -> None:
    hp = recorded(name)["hp"]
    run = LearningRateSettings.for_run(
        style=hp["schedule"],
        lr=hp["lr"],
        min_lr=0.0,
        train_iters=hp["max_steps"],
        global_batch_size=hp["batch_size"] * hp["accumulation"],
        lr_warmup_iters=hp["warmup_steps"],
    )
    logged = [step["learning_rate"] for step in recorded(name)["steps"]]
    assert [lr_at(step, run) for step in range(len(logged))] == pytest.approx(logged, rel=1e-12)
