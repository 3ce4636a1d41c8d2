"""Losses and learning rates against the numbers TRL recorded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mindspeed_dpo.algorithms.cross_pair_values import StepValues, cross_pair_values
from mindspeed_dpo.algorithms.lr_and_beta_schedules import LearningRateSettings, lr_at
from mindspeed_dpo.algorithms.objective import PairLosses, PairValues, PreferenceObjective
from mindspeed_dpo.config.settings.loss import LossConfig
from tests.recordings.batches import MicroBatch, of_case
from tests.recordings.files import recording
from tests.support.recorded_runs import loss_keys

pytestmark = pytest.mark.numerics

LOSS_CASES = [
    "sigmoid", "sigmoid_conversational", "sigmoid_trunc", "sigmoid_precompute", "hinge", "ipo", "sigmoid_norm",
    "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down", "aot", "aot_unpaired",
    "discopop", "sft", "mpo", "rpo_equiv", "ld_dpo", "f_forward_kl", "f_js", "f_js_ipo", "f_alpha",
    "sigmoid_ls_ignored",
]  # fmt: skip
# Recorded to 1e-4 nats at best, which the width of the blend and exponentials amplify.
TOLERANCE = {"discopop": 1e-6}
PAIR_METRICS = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
)


def columns(micro_batch: dict, prefix: str = "") -> Tensor:
    return torch.tensor([micro_batch[f"{prefix}chosen_logps"], micro_batch[f"{prefix}rejected_logps"]]).T


def response_lengths(batch: MicroBatch) -> Tensor:
    chosen, rejected = batch.response.sum(1).chunk(2)
    return torch.stack([chosen, rejected], 1)


def objective_of(case: dict) -> PreferenceObjective:
    return PreferenceObjective(LossConfig(ipo_normalize=True, **loss_keys(case["options"])), case["options"]["beta"])


def measured(case: dict, places: slice) -> PairLosses:
    """The pairs of some micro-batches, each of which is a group of its own."""
    micro_batches = case["micro_batches"][places]
    logps, ref = (torch.cat([columns(m, prefix) for m in micro_batches]) for prefix in ("", "ref_"))
    lengths = torch.cat([response_lengths(m) for m in of_case(case)[places]])
    objective = objective_of(case)
    values = StepValues(lengths.float(), logps, ref)
    across = cross_pair_values(values, objective.settings.dpo_loss_type, case["hp"]["batch_size"])
    return objective(PairValues(logps, lengths, ref, cross_pair=across))


@pytest.mark.parametrize("name", LOSS_CASES)
def test_recorded_losses_follow_from_recorded_log_probabilities(name: str) -> None:
    case = recording(name)
    for place, micro_batch in enumerate(case["micro_batches"]):
        result = measured(case, slice(place, place + 1))
        expected = micro_batch["loss"]
        assert abs(result.losses.mean().item() - expected) / max(1, abs(expected)) < TOLERANCE.get(name, 2e-7)


@pytest.mark.parametrize("name", LOSS_CASES)
def test_recorded_metrics_of_a_step_are_means_over_its_pairs(name: str) -> None:
    case = recording(name)
    size = case["hp"]["accumulation"]
    for step, logged in enumerate(case["steps"]):
        means = measured(case, slice(step * size, (step + 1) * size)).sums.means()
        assert {key: means[key] for key in PAIR_METRICS} == pytest.approx(
            {key: logged[key] for key in PAIR_METRICS}, rel=1e-6, abs=2e-6
        )


@pytest.mark.parametrize("name", LOSS_CASES)
def test_recorded_learning_rates_follow_from_the_schedule(name: str) -> None:
    hp = recording(name)["hp"]
    run = LearningRateSettings.for_run(
        style=hp["schedule"],
        lr=hp["lr"],
        min_lr=0.0,
        train_iters=hp["max_steps"],
        global_batch_size=hp["batch_size"] * hp["accumulation"],
        lr_warmup_iters=hp["warmup_steps"],
    )
    logged = [step["learning_rate"] for step in recording(name)["steps"]]
    assert [lr_at(step, run) for step in range(len(logged))] == pytest.approx(logged, rel=1e-12)
