"""What the tests of the rollout share: tiny models as rollout models, and jobs for a pool of processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.config.settings.generation import RolloutConfig
from mindspeed_dpo.parallel.tensor_parallel import TensorGroup
from mindspeed_dpo.rollout.decoder import RolloutModel
from mindspeed_dpo.rollout.generator import Generator
from mindspeed_dpo.weights import Placement, open_weights

PROMPTS = [[5, 1, 0, 64], [7, 47, 2], [9, 9, 31, 4, 60, 3, 8, 1, 77, 12, 30], [11], [92, 3], [40, 41, 42, 43, 44, 45]]


def rollout_model(folder: Path, tp: TensorGroup | None = None, dtype: torch.dtype | None = None) -> RolloutModel:
    """This rank's share of a saved model."""
    tp = tp or TensorGroup()
    source = open_weights(folder)
    model = source.model_config()
    placement = Placement.even(model.num_layers, tp_rank=tp.rank, tp_size=tp.size)
    weights = {name: t if dtype is None else t.to(dtype) for name, t in source.local_tensors(model, placement)}
    return RolloutModel(model, weights, tp)


def settings(**changes: Any) -> RolloutConfig:
    """Few slots and rows, so that tiny calls refill and fill several tiles."""
    small = {"rollout_slots": 4, "decode_rows": 2, "temperature": 1.0}
    return RolloutConfig(**{**small, **changes})  # type: ignore[arg-type]


def tensors(prompts: list[list[int]]) -> list[Tensor]:
    return [torch.tensor(prompt, dtype=torch.int32) for prompt in prompts]


def rollout(
    model: RolloutModel,
    prompts: list[list[int]] = PROMPTS,
    numbers: list[int] | None = None,
    *,
    max_new_tokens: int = 12,
    stop_ids: frozenset[int] = frozenset({13, 29}),
    seed: int = 1,
    **changes: Any,
) -> RolloutBatch:
    """Generate responses to prompts with small settings."""
    generator = Generator(model, settings(**changes), max_new_tokens=max_new_tokens, stop_ids=stop_ids, seed=seed)
    numbers = list(range(len(prompts))) if numbers is None else numbers
    return generator.rollout(tensors(prompts), range(len(prompts)), numbers, version=0)


def shared_rollout(folder: Path, changes: dict[str, Any]) -> RolloutBatch:
    """The rollout of one tensor rank among all of the job."""
    tp = TensorGroup(dist.get_rank(), dist.get_world_size(), dist.group.WORLD)
    return rollout(rollout_model(folder, tp), **changes)


def shared_logits(folder: Path, prompt: list[int]) -> Tensor:
    """Logits after a prompt, as one tensor rank sees them."""
    tp = TensorGroup(dist.get_rank(), dist.get_world_size(), dist.group.WORLD)
    return rollout_model(folder, tp).prefill(torch.tensor(prompt))[1]
