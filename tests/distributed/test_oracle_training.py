"""Ten steps of training against the numbers recorded from TRL, under every layout.

Two micro-batches of two pairs make a step in the recording; other sizes must give the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.conversions import assert_same_weights, convert_to_hf, convert_to_mcore
from tests.support.oracle import require
from tests.support.oracle_runs import CASES, FURTHER_CASES, LAYOUTS, compare, oracle_run, recording
from tests.support.runs import Layout, train

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_training_follows_the_recording(case: str, layout: Layout, tmp_path: Path) -> None:
    # Every case meets every layout. Micro-batch size and sequence parallelism take turns, so that every layout meets
    # each pair of their values.
    turn, index = divmod(list(CASES).index(case), len(micro_batch_sizes(layout)))
    run = oracle_run(
        case,
        layout,
        tmp_path,
        micro_batch_size=micro_batch_sizes(layout)[index],
        sequence_parallel=layout[0] > 1 and turn % 2 == 0,
    )
    compare(case, train(run), tmp_path / "checkpoints")


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_converted_weights_are_trained_and_converted_back(layout: Layout, tmp_path: Path) -> None:
    source = convert_to_mcore(require("oracle", "policy"), tmp_path / "mcore", layout)
    sequence_parallel = layout[0] > 1 and layout[2] == 1
    run = oracle_run("sigmoid", layout, tmp_path, load=source, sequence_parallel=sequence_parallel)
    compare("sigmoid", train(run), tmp_path / "checkpoints")
    convert_to_hf(tmp_path / "checkpoints", tmp_path / "hf")
    assert_same_weights(tmp_path / "checkpoints", tmp_path / "hf")


@pytest.mark.parametrize("layout", [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2)], ids=str)
@pytest.mark.parametrize("case", FURTHER_CASES)
def test_further_losses_follow_the_recording(case: str, layout: Layout, tmp_path: Path) -> None:
    compare(case, train(oracle_run(case, layout, tmp_path)), tmp_path / "checkpoints")


# Rows split over ranks, beside nothing else, tensor ranks, stages and replicas; losses that look at single tokens.
SPLIT_ROWS: list[tuple[str, Layout, dict[str, Any]]] = [
    ("sigmoid", (1, 1, 1), {}),
    ("sigmoid", (2, 1, 1), {"sequence_parallel": True, "micro_batch_size": 4}),
    ("wpo", (1, 1, 2), {"use_distributed_optimizer": True, "overlap_param_gather": True, "overlap_grad_reduce": True}),
    ("ld_dpo", (1, 2, 1), {"share_prompt": False}),
    ("aot", (1, 1, 1), {}),
]


@pytest.mark.parametrize(("case", "layout", "settings"), SPLIT_ROWS, ids=str)
def test_split_rows_follow_the_recording(case: str, layout: Layout, settings: dict[str, Any], tmp_path: Path) -> None:
    run = oracle_run(case, layout, tmp_path, context_parallel_size=2, **settings)
    compare(case, train(run), tmp_path / "checkpoints")


@pytest.mark.parametrize(("case", "layout"), [("sigmoid", (1, 2, 1)), ("aot", (1, 1, 2))], ids=str)
def test_token_budgets_follow_the_recording(case: str, layout: Layout, tmp_path: Path) -> None:
    budget = {"micro_batch_size": None, "micro_batch_tokens": 128, "pad_to_multiple_of": 16}
    metrics = train(oracle_run(case, layout, tmp_path, **budget))
    compare(case, metrics, tmp_path / "checkpoints")
    # Of a step's four pairs some share a pass, and not always the same number of them.
    assert len({step["micro_batches"] for step in metrics}) > 1


@pytest.mark.parametrize("layout", [(1, 1, 1), (2, 2, 1)], ids=str)
def test_bfloat16_stays_near_the_recording(layout: Layout, tmp_path: Path) -> None:
    metrics = train(oracle_run("sigmoid", layout, tmp_path, bf16=True, sequence_parallel=layout[0] > 1))
    for ours, theirs in zip(metrics, recording("sigmoid")["steps"], strict=True):
        for name in ("loss", "rewards/margins", "logps/chosen"):
            assert ours[name] == pytest.approx(theirs[name], rel=3e-2, abs=3e-2), (name, ours["step"])


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("share_prompt", [True, False])
def test_micro_batches_and_shared_prompts_change_nothing(size: int, share_prompt: bool, tmp_path: Path) -> None:
    run = oracle_run("sigmoid", (1, 1, 1), tmp_path, micro_batch_size=size, share_prompt=share_prompt)
    compare("sigmoid", train(run), tmp_path / "checkpoints")


@pytest.mark.parametrize(("case", "layout"), [("sigmoid", (1, 1, 2)), ("aot", (1, 1, 2)), ("ipo", (1, 2, 1))])
def test_budgets_of_tokens_change_nothing(case: str, layout: Layout, tmp_path: Path) -> None:
    run = oracle_run(case, layout, tmp_path, micro_batch_size=None, micro_batch_tokens=96, pad_to_multiple_of=8)
    compare(case, train(run), tmp_path / "checkpoints")


@pytest.mark.parametrize(
    "options",
    [
        {"use_distributed_optimizer": True, "overlap_grad_reduce": True, "overlap_param_gather": True},
        {"optimizer_offload": True},
        {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
        {"recompute_granularity": "selective", "sequence_parallel": True, "tensor_model_parallel_size": 2},
        {"reference": "live", "no_shuffle": True},
    ],
    ids=lambda options: next(iter(options)),
)
def test_speed_and_memory_options_change_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    layout = (options.get("tensor_model_parallel_size", 1), 1, 2)
    compare("sigmoid", train(oracle_run("sigmoid", layout, tmp_path, **options)), tmp_path / "checkpoints")


def micro_batch_sizes(layout: Layout) -> list[int]:
    """Sizes that divide a replica's share of the four pairs of a step."""
    return [size for size in (1, 2, 4) if (4 // layout[2]) % size == 0]
