"""Replicas that share experts: each generates as if it were alone, however many passes the others make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mindspeed_dpo.batches import RolloutBatch
from tests.support.processes import pool
from tests.support.tiny_models import save_tiny_model
from tests.unit.rollout.rollout_jobs import (
    PROMPTS,
    paired_generator,
    replica_pairs,
    replica_rollout,
    rollout,
    rollout_model,
    tensors,
)
from tests.unit.rollout.test_rollout_determinism import by_sample

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

UNEVEN = [[0, 1, 2], [5], [], [4, 3]]
"""Prompts of four replicas: they differ in prompts and passes, and one has nothing to do."""
FEW: dict[str, Any] = {"max_new_tokens": 5}
# Four ranks hold two of eight experts each, so the last one's are never chosen.
UNUSED = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model("glm4_moe", tmp_path_factory.mktemp("experts"))


def test_a_response_is_that_of_a_replica_alone(folder: Path) -> None:
    """Bitwise, also where the experts of one rank get no token."""
    alone = by_sample(rollout(rollout_model(folder, unused_experts=UNUSED), **FEW), range(len(PROMPTS)))
    options = {**FEW, "unused_experts": UNUSED}
    together = pool(4).run(_replica, folder, 1, UNEVEN, options)
    assert {
        k: v for share, batch in zip(UNEVEN, together, strict=True) for k, v in by_sample(batch, share).items()
    } == alone


def test_replicas_of_two_tensor_ranks_generate_as_one(folder: Path) -> None:
    alone = rollout(rollout_model(folder), **FEW)
    shares = [[0, 1, 2, 3, 4], [5]]
    batches = pool(4).run(_replica, folder, 2, shares, FEW)
    assert all(torch.equal(a.samples.response_tokens, b.samples.response_tokens) for a, b in (batches[:2], batches[2:]))
    together = RolloutBatch.concat(batches[::2])
    assert torch.equal(together.samples.response_tokens, alone.samples.response_tokens)
    torch.testing.assert_close(together.logps, alone.logps, rtol=1e-5, atol=1e-4)


def test_two_models_with_experts_generate_in_step(folder: Path, tmp_path: Path) -> None:
    other = save_tiny_model("mixtral", tmp_path)
    numbers = list(range(len(PROMPTS)))
    generator = paired_generator(rollout_model(folder), rollout_model(other))
    alone = by_sample(generator.rollout(tensors(PROMPTS), numbers, numbers, version=0), numbers)
    together = pool(4).run(replica_pairs, folder, other, UNEVEN)
    assert {
        k: v for share, batch in zip(UNEVEN, together, strict=True) for k, v in by_sample(batch, share).items()
    } == alone


def _replica(folder: Path, tp_size: int, shares: list[list[int]], options: dict[str, Any]) -> RolloutBatch:
    return replica_rollout(folder, tp_size, shares, **options)
