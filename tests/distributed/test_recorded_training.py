"""Ten steps of training against the numbers recorded from TRL, under every layout.

Two micro-batches of two pairs make a step in the recording; other sizes, which take turns here, must give the same.
`make numerics` runs all cases under all layouts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.recordings.files import POLICY, recording
from tests.support.conversions import assert_same_weights, convert_to_hf, convert_to_mcore
from tests.support.recorded_layouts import CONVERTED, LAYOUTS, run_of, runs_of_the_suite
from tests.support.recorded_runs import compare, recorded_run
from tests.support.runs import Layout, train

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize(("case", "layout"), runs_of_the_suite())
def test_training_follows_the_recording(case: str, layout: str, tmp_path: Path) -> None:
    metrics = train(run_of(case, layout, tmp_path))
    compare(case, metrics, tmp_path / "checkpoints")
    if layout == "packed" and recording(case)["max_length"] == 64:
        # Of a step's four pairs some share a pass, and not always the same number of them.
        assert len({step["micro_batches"] for step in metrics}) > 1


@pytest.mark.parametrize(("case", "layout"), CONVERTED)
def test_converted_weights_are_trained_and_converted_back(case: str, layout: str, tmp_path: Path) -> None:
    source = convert_to_mcore(POLICY, tmp_path / "mcore", LAYOUTS[layout].sizes)
    compare(case, train(run_of(case, layout, tmp_path, load=source)), tmp_path / "checkpoints")
    convert_to_hf(tmp_path / "checkpoints", tmp_path / "hf")
    assert_same_weights(tmp_path / "checkpoints", tmp_path / "hf")


# Tensor and data parallelism at once; rows split over ranks beside tensor ranks, stages and replicas, and losses that
# look at single tokens; budgets of tokens beside stages and replicas.
ROWS = {"context_parallel_size": 2}
SHARDED = {"use_distributed_optimizer": True, "overlap_param_gather": True, "overlap_grad_reduce": True}
BUDGET: dict[str, Any] = {"micro_batch_size": None, "micro_batch_tokens": 128, "pad_to_multiple_of": 16}
SMALL_BUDGET: dict[str, Any] = {"micro_batch_size": None, "micro_batch_tokens": 96, "pad_to_multiple_of": 8}
COMBINED: list[tuple[str, Layout, dict[str, Any]]] = [
    ("sigmoid_conversational", (2, 1, 2), {"micro_batch_size": 1}),
    ("sigmoid_trunc", (2, 1, 2), {"sequence_parallel": True}),
    ("sigmoid", (2, 1, 1), {**ROWS, "sequence_parallel": True, "micro_batch_size": 4}),
    ("wpo", (1, 1, 2), {**ROWS, **SHARDED}),
    ("ld_dpo", (1, 2, 1), {**ROWS, "share_prompt": False}),
    ("sigmoid", (1, 2, 1), BUDGET),
    ("aot", (1, 1, 2), BUDGET),
    ("sigmoid", (1, 1, 2), SMALL_BUDGET),
    ("ipo", (1, 2, 1), SMALL_BUDGET),
]


@pytest.mark.parametrize(("case", "layout", "settings"), COMBINED, ids=str)
def test_combined_layouts_follow_the_recording(
    case: str, layout: Layout, settings: dict[str, Any], tmp_path: Path
) -> None:
    metrics = train(recorded_run(case, layout, tmp_path, **settings))
    compare(case, metrics, tmp_path / "checkpoints")
    if "micro_batch_tokens" in settings:
        assert len({step["micro_batches"] for step in metrics}) > 1


@pytest.mark.parametrize("layout", [(1, 1, 1), (2, 2, 1)], ids=str)
def test_bfloat16_stays_near_the_recording(layout: Layout, tmp_path: Path) -> None:
    metrics = train(recorded_run("sigmoid", layout, tmp_path, bf16=True, sequence_parallel=layout[0] > 1))
    for ours, theirs in zip(metrics, recording("sigmoid")["steps"], strict=True):
        for name in ("loss", "rewards/margins", "logps/chosen"):
            assert ours[name] == pytest.approx(theirs[name], rel=3e-2, abs=3e-2), (name, ours["step"])


@pytest.mark.parametrize(
    "options",
    [
        {"use_distributed_optimizer": True, "overlap_grad_reduce": True, "overlap_param_gather": True},
        {"optimizer_offload": True},
        {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
        {"recompute_granularity": "selective", "sequence_parallel": True, "tensor_model_parallel_size": 2},
    ],
    ids=lambda options: next(iter(options)),
)
def test_speed_and_memory_options_change_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    layout = (options.get("tensor_model_parallel_size", 1), 1, 2)
    compare("sigmoid", train(recorded_run("sigmoid", layout, tmp_path, **options)), tmp_path / "checkpoints")
