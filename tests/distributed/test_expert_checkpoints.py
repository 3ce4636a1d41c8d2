"""Where runs of a model with experts start from: rank files in every form, and checkpoints of other pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.weights import ParallelLayout, open_weights
from mindspeed_dpo.weights.conversion.conversion_request import ConversionRequest
from mindspeed_dpo.weights.conversion.convert import convert
from mindspeed_dpo.weights.legacy.expert_storage import ExpertDivision, ExpertForm, ExpertStorage
from tests.support.closeness import FULL, STEADY, assert_same_run, is_of_the_clock
from tests.support.jobs import read_tensors
from tests.support.runs import Layout, train
from tests.unit.workers.pairs import random_run
from tests.unit.workers.rollouts import EXPERTS, save_policy

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

# A dense layer and three with experts, shared ones and a bias that follows their load.
RUN: dict[str, Any] = {
    **EXPERTS, "num_layers": 4, "moe_router_bias_update_rate": 0.01, "moe_aux_loss_coeff": 0.1, "reference": "live",
    "random_init": False, "finetune": True, "global_batch_size": 3, "micro_batch_size": None, "micro_batch_tokens": 8,
    "lr_warmup_iters": 0, **STEADY,
}  # fmt: skip
SHARED = {"expert_model_parallel_size": 2}
NOT_ALIKE = ("micro_batches", "micro_batch_fill", "tokens_computed")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(tmp_path_factory.mktemp("policy") / "hf", 4, has_experts=True)


def run_of(folder: Path, policy: Path, layout: Layout, **settings: Any) -> RunConfig:
    folder.mkdir(exist_ok=True)
    return random_run(folder, layout, **{**RUN, "load": policy, **settings})


@pytest.fixture(scope="module")
def from_hugging_face(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """A step from the original of the rank files."""
    return train(run_of(tmp_path_factory.mktemp("hf"), policy, (1, 1, 2), **SHARED, train_iters=1))


FORMS = [
    (ExpertStorage(ExpertForm.PER_EXPERT), ParallelLayout(2, 2, ep=2)),
    (ExpertStorage(ExpertForm.GROUPED, ExpertDivision.EXTENDED), ParallelLayout(2, 1, ep=2)),
    (ExpertStorage(ExpertForm.NUMBERED, ExpertDivision.UNSLICED), ParallelLayout(2, 2, ep=4)),
]


@pytest.mark.parametrize(("storage", "layout"), FORMS, ids=[storage.form.name for storage, _ in FORMS])
def test_a_run_starts_from_rank_files(
    storage: ExpertStorage,
    layout: ParallelLayout,
    policy: Path,
    from_hugging_face: list[dict[str, float]],
    tmp_path: Path,
) -> None:
    """To the bit as from the Hugging Face folder, with ranks that divide the experts in another way than the files."""
    convert(ConversionRequest(policy, tmp_path / "mg", layout=layout, storage=storage))
    assert open_weights(tmp_path / "mg").storage == storage  # type: ignore[attr-defined]
    actual, expected = train(run_of(tmp_path, tmp_path / "mg", (1, 1, 2), **SHARED, train_iters=1)), from_hugging_face
    assert len(actual) == len(expected) == 1
    compared = {name for name in expected[0] if not is_of_the_clock(name)}
    assert {"logps/chosen", "grad_norm", "moe/router_entropy"} <= compared
    assert {name: actual[0][name] for name in compared} == {name: expected[0][name] for name in compared}


def test_a_run_goes_on_with_other_stages(policy: Path, tmp_path: Path) -> None:
    """From two stages to one and back, each with its experts on two ranks; biases and optimizer state move along."""
    keys: dict[str, Any] = {"save_interval": 1, "lr_decay_iters": 3}
    straight = train(run_of(tmp_path / "straight", policy, (1, 1, 1), **keys, train_iters=3))
    actual = []
    for step, stages in enumerate([2, 1, 2], start=1):
        resume = {"resume_from": tmp_path / "actual" / "out", "no_load_rng": True} if step > 1 else {}
        settings = {**keys, **SHARED, **resume, "use_distributed_optimizer": stages == 1, "train_iters": step}
        actual = train(run_of(tmp_path / "actual", policy, (1, stages, 2), **settings))
    assert_same_run(actual, straight, FULL, but=NOT_ALIKE)
    ours, theirs = (read_tensors(path / "out" / "checkpoints") for path in (tmp_path / "actual", tmp_path / "straight"))
    biases = [name for name in theirs if name.endswith("e_score_correction_bias")]
    assert len(biases) == 3 and all(torch.equal(ours[name], theirs[name]) for name in biases)
