"""The rollout split over tensor ranks, and its log-probabilities against those of the model that trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mindspeed_dpo.parallel.tensor_parallel import TensorGroup
from tests.support.jobs import Job, scores_job
from tests.support.processes import pool
from tests.support.tiny_models import save_tiny_model
from tests.unit.rollout.rollout_jobs import PROMPTS, rollout, rollout_model, shared_logits, shared_rollout

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]


# Every collective of the pool waits for the scheduler of a busy machine, so few and full passes.
FEW: dict[str, Any] = {"max_new_tokens": 5, "rollout_slots": 8, "decode_rows": 8}


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama_tied", {"top_p": 0.9, "repetition_penalty": 1.2}),
        ("qwen2", {"top_k": 1}),
        ("qwen3", {"temperature": 0.7}),
    ],
)
def test_two_tensor_ranks_generate_as_one(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    folder = save_tiny_model(family, tmp_path)
    alone = rollout(rollout_model(folder), **FEW, **changes)
    first, second = pool(2).run(shared_rollout, folder, {**FEW, **changes})
    for name in ("response_tokens", "response_lengths"):
        actual = getattr(first.samples, name)
        assert torch.equal(actual, getattr(second.samples, name))
        assert torch.equal(actual, getattr(alone.samples, name))
    assert torch.equal(first.ended, alone.ended) and torch.equal(first.logps, second.logps)
    torch.testing.assert_close(first.logps, alone.logps, rtol=1e-5, atol=1e-4)


def test_logits_of_two_tensor_ranks_are_complete_and_without_padding(tmp_path: Path) -> None:
    folder = save_tiny_model("qwen2_tied", tmp_path)
    alone = rollout_model(folder).prefill(torch.tensor(PROMPTS[2]))[1]
    for logits in pool(2).run(shared_logits, folder, PROMPTS[2]):
        assert logits.shape == (1, 93)
        torch.testing.assert_close(logits, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["llama_tied", "qwen2", "qwen3", "mistral_window"])
def test_log_probs_equal_those_of_the_model_that_trains(family: str, tmp_path: Path) -> None:
    folder = save_tiny_model(family, tmp_path)
    options: dict[str, Any] = {"temperature": 0.8, "min_p": 0.02}
    batch = rollout(rollout_model(folder), **options)
    assert batch.logps is not None
    (scores,) = pool(1).run(scores_job, Job(folder), batch.samples)
    torch.testing.assert_close(batch.logps, scores, rtol=0, atol=1e-4)


def test_a_rank_must_lie_in_its_group() -> None:
    with pytest.raises(ValueError, match="a tensor group of 2 ranks has no rank 2"):
        TensorGroup(2, 2)
