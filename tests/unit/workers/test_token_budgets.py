"""A budget of tokens changes how pairs are computed and no number: log-probabilities, gradients, metrics, resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.controller.handles import ActorHandle, ReferenceHandle
from mindspeed_dpo.workers.crew import Crew
from mindspeed_dpo.workers.sources import open_pairs
from tests.support.processes import PoolGroup
from tests.support.runs import Layout
from tests.unit.workers.pairs import random_run, write_pairs

pytestmark = pytest.mark.distributed

AMOUNTS = {"tokens_computed", "micro_batches", "micro_batch_fill", "memory/peak_bytes"}
LAYOUTS: list[Layout] = [(1, 1, 1), (1, 1, 2), (1, 2, 1)]
SPLITS: dict[str, dict[str, Any]] = {
    "tight": {"micro_batch_tokens": 24},
    "wide and padded": {"micro_batch_tokens": 64, "pad_to_multiple_of": 8},
    "prompts repeated": {"micro_batch_tokens": 40, "share_prompt": False},
}
COUNT = 12


def skewed_pairs(folder: Path, seed: int = 0) -> Path:
    """Pairs whose lengths differ much; a few are longer than the budgets."""
    draw = np.random.default_rng(seed)
    lengths = np.minimum(draw.lognormal(1.2, 0.8, (COUNT, 3)).astype(int) + 1, 30)
    pairs = [tuple(draw.integers(0, 256, n).tolist() for n in row) for row in lengths]
    return write_pairs(folder / f"skewed{seed}", pairs)  # type: ignore[arg-type]


def seat(folder: Path, layout: Layout, **settings: Any) -> tuple[PoolGroup, ActorHandle, RunConfig]:
    """The actor of a run over those pairs."""
    keys = {"data_path": skewed_pairs(folder), "global_batch_size": COUNT, "seq_length": 64, "clip_grad": 0.0}
    if "micro_batch_tokens" in settings:
        settings["micro_batch_size"] = None
    run = random_run(folder, layout, **{**keys, **settings})
    group = PoolGroup(run, layout[0] * layout[1] * layout[2])
    group.build("actor")
    return group, ActorHandle(group), run


def gradients(crew: Crew) -> dict[str, torch.Tensor]:
    """Of this process's parameters by name, after an update; layers counted from the start of the model."""
    model = crew.roles["actor"].engine.model
    first = len(model.decoder.layers) * crew.roles["actor"].seat.place.pp_rank
    found = {}
    for name, parameter in model.named_parameters():
        if name.startswith("decoder.layers."):
            number, rest = name.removeprefix("decoder.layers.").split(".", 1)
            name = f"decoder.layers.{first + int(number)}.{rest}"
        found[name] = parameter.main_grad.clone()
    return found


def share_weights(crew: Crew, weights: dict[str, torch.Tensor]) -> None:
    """Give a process its part of weights: stages draw others than a whole model does."""
    actor = crew.roles["actor"]
    first = len(actor.engine.model.decoder.layers) * actor.seat.place.pp_rank
    with torch.no_grad():
        for name, parameter in actor.engine.model.named_parameters():
            whole = name
            if name.startswith("decoder.layers."):
                number, rest = name.removeprefix("decoder.layers.").split(".", 1)
                whole = f"decoder.layers.{first + int(number)}.{rest}"
            tied = "embedding.word_embeddings.weight" if whole == "output_layer.weight" else whole
            parameter.copy_(weights.get(whole, weights.get(tied)))
    actor.engine.optimizer.reload_model_params()


def weights_of(crew: Crew) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in crew.roles["actor"].engine.model.named_parameters()}


Learned = tuple[np.ndarray, dict[str, float], dict[str, torch.Tensor]]


def learn(folder: Path, layout: Layout, weights: dict[str, torch.Tensor] | None = None, **settings: Any) -> Learned:
    """Log-probabilities, metrics and gradients of a step over rows out of order."""
    group, actor, _ = seat(folder, layout, **settings)
    if weights is not None:
        group.inspect(share_weights, weights)
    rows = np.random.default_rng(1).permutation(COUNT)
    logps = actor.log_probs(rows)
    references = logps + np.linspace(-3, 3, 2 * COUNT, dtype=np.float32).reshape(-1, 2)
    metrics = actor.update(0, rows, references)
    parts = group.inspect(gradients)
    group.leave()
    return logps, metrics, {name: value for part in parts for name, value in part.items()}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Those of the model in one process."""
    group, _, _ = seat(tmp_path_factory.mktemp("weights"), (1, 1, 1))
    (found,) = group.inspect(weights_of)
    group.leave()
    return dict(found)


@pytest.fixture(scope="module")
def alone(weights: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """What one process learns from one pair at a time."""
    return learn(tmp_path_factory.mktemp("alone"), (1, 1, 1), weights, micro_batch_size=1)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("split", SPLITS)
def test_a_budget_changes_no_number(
    split: str, layout: Layout, weights: dict[str, torch.Tensor], alone: Learned, tmp_path: Path
) -> None:
    logps, metrics, found = learn(tmp_path, layout, weights, **SPLITS[split])
    np.testing.assert_allclose(logps, alone[0], rtol=1e-5)
    for name in alone[1].keys() - AMOUNTS:
        assert metrics[name] == pytest.approx(alone[1][name], rel=1e-5, abs=1e-6), name
    assert found.keys() >= alone[2].keys()
    for name, expected in alone[2].items():
        assert (found[name] - expected).norm() <= 1e-5 * expected.norm(), name
    assert metrics["micro_batch_fill"] > 0 and metrics["micro_batches"] >= layout[1] * layout[2]


def test_losses_over_the_whole_step_see_the_same_values(tmp_path: Path) -> None:
    settings = {"dpo_loss_type": "[aot,sft]", "loss_weights": "[1,0.5]", "loss_group_size": 4, "beta_dpo_alpha": 0.6}
    _, expected, _ = learn(tmp_path / "one", (1, 1, 1), micro_batch_size=1, **settings)
    _, found, _ = learn(tmp_path / "two", (1, 1, 2), micro_batch_tokens=40, **settings)
    for name in expected.keys() - AMOUNTS:
        assert found[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-6), name


def test_references_and_evaluation_come_in_the_order_of_the_rows(tmp_path: Path) -> None:
    rows = np.arange(COUNT)[::-1]
    found = []
    for name, settings in (("one", {"micro_batch_size": 1}), ("two", {"micro_batch_tokens": 30})):
        group, actor, run = seat(tmp_path / name, (1, 1, 2), reference="live", **settings)
        group.build("ref")
        reference = ReferenceHandle(group)
        logps = reference.log_probs(rows)
        measured = actor.evaluate(rows, logps * np.linspace(0.5, 1.5, COUNT, dtype=np.float32)[:, None])
        pairs = open_pairs(run).batch(rows)
        assert np.allclose(reference.log_probs(pairs), logps, rtol=1e-6)
        tokens = reference.start_token_log_probs(pairs)()
        per_pair = np.add.reduceat(tokens, np.cumsum([0, *pairs.response_lengths.sum(1).tolist()])[:-1])
        np.testing.assert_allclose(per_pair, logps.sum(1), rtol=1e-5)
        found.append((logps, measured))
        group.leave()
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-5)
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-5, abs=1e-6)


def test_a_continued_run_makes_the_same_micro_batches(tmp_path: Path) -> None:
    rows = np.random.default_rng(2).permutation(COUNT)
    group, actor, _ = seat(tmp_path, (1, 1, 2), micro_batch_tokens=30, lr=1e-2)
    references = actor.log_probs(rows)
    actor.update(0, rows, references)
    folder = actor.save(1, {})
    actor.update(1, rows[::-1], references[::-1])
    expected = actor.log_probs(rows)
    group.leave()
    group, actor, _ = seat(tmp_path, (1, 1, 2), micro_batch_tokens=30, lr=1e-2)
    actor.load(folder, True, True)
    actor.update(1, rows[::-1], references[::-1])
    assert np.array_equal(actor.log_probs(rows), expected)
    group.leave()
